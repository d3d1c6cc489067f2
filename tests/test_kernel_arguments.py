"""Kernel arguments by name: packing by field, and calls of the compiled entry point."""

import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent.cpu import arguments, few_class_kernels, jit, launch
from fastxent.cpu.arguments import KernelOptions, OutputArrays, WeightArrays
from fastxent.records import NO_OPTIONS, NO_WEIGHTS, Outputs, Weights


def plain_arguments(rng, n=5, n_classes=7):
    """The arguments of the kernel of few classes for a plain call with a gradient."""
    logits = rng.standard_normal((n, n_classes)).astype(np.float32)
    outputs = OutputArrays._make(arguments.only_grad(np.empty_like(logits), "f"))
    return [
        logits, rng.integers(0, n_classes, n), arguments.pack_weights(NO_WEIGHTS, "f"),
        arguments.pack_options(NO_OPTIONS, n_classes), None, float(n), outputs, 0, n,
    ]  # fmt: skip


def entry_point():
    """The kernel's entry point."""
    kinds = WeightArrays, KernelOptions, type(None)
    signature = launch.loss_signature("f", launch.LABELS, ("grad",), kinds)
    return jit.specialise(few_class_kernels.cross_entropy_rows, signature)


def test_entry_points_lose_and_keep_no_reference(rng):
    """Called again and again, a kernel gives the same result; nothing else changes."""
    args, kernel = plain_arguments(rng), entry_point()
    want, want_grad = fx.cross_entropy(*args[:2], return_grad=True)
    arrays = [a for group in (args, args[2], args[6]) for a in group if isinstance(a, np.ndarray)]
    before = [sys.getrefcount(array) for array in arrays]
    for _ in range(100):
        np.testing.assert_allclose(kernel(*args) / len(args[0]), want, rtol=1e-6)
        np.testing.assert_array_equal(args[6].grad, want_grad)
    assert [sys.getrefcount(array) for array in arrays] == before


@pytest.mark.parametrize("wrong", [{0: None}, {1: [0, 1]}, {7: None}])
def test_entry_points_refuse_what_they_cannot_convert(rng, wrong):
    """An array or number of another kind is an error, and so is a missing argument."""
    args, kernel = plain_arguments(rng), entry_point()
    with pytest.raises((TypeError, ValueError)):
        kernel(*(wrong.get(k, value) for k, value in enumerate(args)))
    with pytest.raises(TypeError):
        kernel(*args[:-1])


def test_packing_goes_by_name():
    """Absent arrays are empty or, of one number per class, None; the fields know their types."""
    requested = Outputs(hess=np.ones((2, 3)), lse=np.ones(2))
    assert arguments.requested(requested) == ("hess",)
    outputs = arguments.pack_outputs(requested, "d", arguments.per_class(requested))
    assert outputs.grad is None and outputs.loss.shape == (0,) and outputs.lse is requested.lse
    assert outputs.hess is requested.hess and outputs.argmax.dtype == np.int64
    weights = arguments.pack_weights(Weights(sample_weight=np.arange(4.0)), "f", total_weight=2.0)
    assert weights.class_weight.dtype == np.float64 and weights.row_weight.dtype == np.float32
    assert weights.total_weight == 2.0
    rest = arguments.at_row(weights, 3)
    assert rest.sample_weight.tolist() == [3.0] and rest.class_weight is weights.class_weight
    rest = arguments.pack_outputs(requested, "d", [None, None, "block"], 1)
    assert rest.lse.tolist() == [1.0]
    assert (rest.grad, rest.probs, rest.hess) == (None, None, "block")


def test_what_the_kernels_of_few_classes_support():
    """Their options and outputs are fields; any other is left to the kernels of many classes."""
    support = launch.FEW_CLASSES_LABELS
    assert support.options < set(KernelOptions._fields)
    for kernel in (support, launch.FEW_CLASSES_PROBS):
        assert kernel.outputs < set(OutputArrays._fields)

    def supported(outputs, **values):
        given = arguments.pack_options(NO_OPTIONS._replace(**values), 3)
        return support.is_enough(given, Outputs(**outputs))

    assert supported({}) and supported({"grad": np.ones((1, 3))}, label_smoothing=0.1)
    assert supported({}, ignore_index=-100, hess_factor=2.0)
    for name in set(KernelOptions._fields) - support.options:
        assert not supported({}, **{name: 2.0})
    for name in set(OutputArrays._fields) - support.outputs:
        assert not supported({name: np.ones(1)})
