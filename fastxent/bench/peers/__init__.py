"""Who is raced: one module a peer, imported only in the process that it runs in.

A module has a function for each job that the peer does, named after it. It takes the arrays of a
case, makes ready what a user would make once, and returns the call that is timed: a function
without arguments that returns (loss, gradients …), or the one array that was asked for.
"""

import importlib.util
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A peer's name as it is shown, the packages it needs, and whether its answer is checked."""

    name: str
    packages: tuple[str, ...] = ()
    computes: bool = True

    def missing(self) -> str:
        """The first of its packages that is not installed; empty if all are."""
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
    "fastxent_jax": Peer("fastxent in JAX", ("jax", "optax")),
    "numba": Peer("Numba, plain loops", ("numba",)),
}
