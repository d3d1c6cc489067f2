"""The compared implementations: one module per peer, imported only in the peer's process.

A module has a function for each job that the peer supports, with the job's name. It takes the
arrays of a case, does the setup that a user would do once, and returns the call to time: a function
without arguments that returns (loss, gradients …), or the one array of the job. Logits of more than
two dimensions have their classes on axis 1. Options have fastxent's names.
"""

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A peer's name in tables, the packages it needs, and whether its result is checked."""

    name: str
    packages: tuple[str, ...] = ()
    computes: bool = True

    def missing(self) -> str:
        """The first required package that is not installed, "" if all are."""
        return next((name for name in self.packages if not importlib.util.find_spec(name)), "")


PEERS = {
    "copy": Peer("copy", computes=False),
    "fastxent": Peer("fastxent"),
    "fastxent_out": Peer("fastxent, grad_out"),
    "numpy_idiom": Peer("NumPy idiom"),
    "numpy_tuned": Peer("NumPy, tuned"),
    "scipy": Peer("SciPy", ("scipy",)),
    "sklearn": Peer("scikit-learn", ("sklearn",)),
    "torch": Peer("PyTorch", ("torch",)),
    "torch_compile": Peer("torch.compile", ("torch",)),
    "torch_chunked": Peer("PyTorch, chunked", ("torch",)),
    "jax": Peer("JAX", ("jax", "optax")),
    "torch_module": Peer("torch.nn", ("torch",)),
    "fastxent_torch": Peer("fastxent in PyTorch", ("torch",)),
    "fastxent_functional": Peer("fastxent's functional", ("torch",)),
    "fastxent_jax": Peer("fastxent in JAX", ("jax", "optax")),
    "numba": Peer("Numba, plain loops", ("numba",)),
}
