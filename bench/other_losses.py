"""Probability targets beside class indices, and the binary loss beside NumPy and PyTorch.

`python bench/other_losses.py`
"""

import functools
from typing import Any

import numpy as np
from race import race

import fastxent as fx

ROWS = [(65536, 10), (16384, 100), (8192, 1000), (1024, 32000)]
ELEMENTS = 10_000_000


def indices(shape: tuple[int, int]) -> tuple[Any, Any]:
    """Logits of spread ±3 and class indices."""
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal(shape, np.float32), rng.integers(0, shape[1], shape[0])


def probabilities(shape: tuple[int, int]) -> tuple[Any, Any]:
    """The same logits and the softmax of others."""
    rng = np.random.default_rng(1)
    return indices(shape)[0], fx.softmax(3 * rng.standard_normal(shape, np.float32))


def one_hot(shape: tuple[int, int]) -> tuple[Any, Any]:
    """The same logits and the same classes as one-hot rows."""
    logits, labels = indices(shape)
    rows = np.zeros(shape, np.float32)
    rows[np.arange(len(labels)), labels] = 1
    return logits, rows


def in_place(logits: Any, target: Any) -> Any:
    """Loss and gradient of `cross_entropy`, into one buffer call after call."""
    return fx.cross_entropy(logits, target, grad_out=buffer(logits.shape))


@functools.cache
def buffer(shape: tuple[int, int]) -> Any:
    """The one buffer of a shape."""
    return np.empty(shape, np.float32)


def binary() -> tuple[Any, Any]:
    """Logits of spread ±3 and labels 0 and 1, float32."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, ELEMENTS).astype(np.float32)
    return 3 * rng.standard_normal(ELEMENTS, np.float32), labels


def binary_fastxent(x: Any, y: Any) -> Any:
    """Mean loss and a fresh gradient by fastxent."""
    return fx.binary_cross_entropy_with_logits(x, y, return_grad=True)


def binary_numpy(x: Any, y: Any) -> Any:
    """The same in NumPy, stable, as it is usually written."""
    loss = (np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))).mean()
    return loss, (1 / (1 + np.exp(-x)) - y) / np.float32(len(x))


def binary_in_place(x: Any, y: Any) -> Any:
    """The same in NumPy with everything in place, and σ(x) by tanh."""
    loss = np.abs(x)
    np.negative(loss, out=loss)
    np.exp(loss, out=loss)
    np.log1p(loss, out=loss)
    total = loss.sum(dtype=np.float64)
    total += np.maximum(x, 0, out=loss).sum(dtype=np.float64) - np.dot(x, y)
    grad = np.multiply(x, np.float32(0.5), out=loss)
    np.tanh(grad, out=grad)
    grad += 1
    grad *= np.float32(0.5)
    grad -= y
    grad /= np.float32(len(x))
    return total / len(x), grad


def binary_torch(x: Any, y: Any) -> Any:
    """The same in PyTorch: forward and backward."""
    import torch

    logits = torch.from_numpy(x).requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y))
    loss.backward()
    return loss.detach(), logits.grad


def main() -> None:
    """Print both tables."""
    print(f"threads: {fx.get_num_threads()}; float32, loss and gradient into a buffer")
    print("bytes moved: logits and gradient, and the target where it is probabilities")
    for shape in ROWS:
        makes = [functools.partial(make, shape) for make in (indices, probabilities, one_hot)]
        by_index, *others = race([in_place] * 3, makes, same=False)
        soft, hot = (by_index * 1.5 / seconds for seconds in others)
        print(
            f"{shape!s:>14}  index {by_index * 1e3:7.3f} ms; speed per byte, index = 1:   "
            f"soft {soft:.2f}   one-hot {hot:.2f}"
        )
    peers = [binary_numpy, binary_in_place]
    try:
        import torch

        peers.append(binary_torch)
        print(f"PyTorch {torch.__version__}")
    except ImportError:
        print("no PyTorch here")
    mine, *theirs = race([binary_fastxent, *peers], binary)
    print(f"binary_cross_entropy_with_logits at {ELEMENTS}: {mine * 1e3:.2f} ms, fresh gradient")
    for peer, seconds in zip(peers, theirs, strict=True):
        print(f"  x {peer.__name__}: {seconds / mine:.2f}")


if __name__ == "__main__":
    main()
