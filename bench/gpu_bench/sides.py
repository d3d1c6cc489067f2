"""The calls that are compared, of fastxent and its peers."""

import functools

import fastxent as fx
from gpu_bench.cases import SMOOTHING, copied
from gpu_bench.torch_sides import torch_call


def fastxent_calls(arrays, job):
    """Calls of fastxent, by name; each is a function of the number of a set."""
    x, y, out, extra = arrays.logits, arrays.labels, arrays.buffers, arrays.extra
    options = arrays.shape.options
    plain = functools.partial(fx.cross_entropy, check_target=False, **options)
    calls = {
        "cross_entropy": lambda k: plain(x[k], y[k], grad_out=out[k]),
        "loss": lambda k: plain(x[k], y[k]),
        "softmax": lambda k: fx.softmax(x[k], out=out[k], **options),
        "soft_targets": lambda k: plain(x[k], extra[k], grad_out=out[k]),
        "smoothing": lambda k: plain(x[k], y[k], label_smoothing=SMOOTHING, grad_out=out[k]),
        "probs": lambda k: plain(x[k], y[k], grad_out=out[k], probs_out=extra[k]),
        "entropy": lambda k: fx.entropy(x[k], grad_out=out[k], **options),
        "hvp": lambda k: fx.cross_entropy_hvp(
            x[k], y[k], extra[k], out=out[k], check_target=False, **options
        ),
    }
    named = {"fastxent": calls[job]}
    if job == "cross_entropy":
        named["fastxent_in_place"] = lambda k: plain(extra[k], y[k], grad_out=extra[k])
    return named


def all_sides(arrays, job, peers):
    """Name -> call(k) of fastxent, its peers and a copy of as many bytes."""
    gpu, x, out = arrays.gpu, arrays.logits, arrays.buffers
    length = copied(job, arrays.shape.logits[0])
    sides = {"copy": lambda k: gpu.copy(x[k], out[k], length)} | fastxent_calls(arrays, job)
    if "torch" in peers:
        sides["torch"] = deferred(lambda: torch_call(arrays, job, False))
    if "torch_compile" in peers:
        sides["torch_compile"] = deferred(lambda: torch_call(arrays, job, True))
    return sides


def deferred(make):
    """A call that `make` creates at its first use, so that errors are raised there."""
    call = functools.cache(make)
    return lambda k: call()(k)
