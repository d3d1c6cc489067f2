"""The type of class indices in kernels: arrays of labels have one, whatever their width."""

from numba import types
from numba.extending import models, register_model


class Label(types.Type):
    """The Numba type of a class index in memory: an integer of any width."""

    bitwidth = 64


LABEL = Label("label")
register_model(Label)(models.OpaqueModel)
