"""The calls that are compared, of fastxent and its peers, and the arrays that they use."""

import functools

import fastxent as fx
from gpu_bench.cases import SIZES, copied_rows


class Arrays:
    """Sets of logits, labels, a buffer, and a copy of the logits for gradients in place.

    Together they are several times as large as the caches, and each call uses the next set.
    """

    def __init__(self, gpu, rows, classes, dtype, small=False):
        size = rows * classes * SIZES[dtype]
        sets = 2 if small else min(64, max(2, -(-4 * gpu.l2 // (2 * size))))
        self.gpu, self.rows = gpu, rows
        self.logits = [gpu.logits(rows, classes, dtype) for _ in range(sets)]
        self.labels = [gpu.labels(rows, classes) for _ in range(sets)]
        self.buffers = [gpu.like(x) for x in self.logits]
        self.in_place = [gpu.like(x) for x in self.logits]
        for k in range(sets):
            self.renew(k)

    def __len__(self):
        return len(self.logits)

    def renew(self, k):
        """Restore the logits that a gradient in place has overwritten."""
        self.gpu.copy(self.logits[k], self.in_place[k])


def fastxent_calls(arrays, job):
    """Calls of fastxent, by name; each is a function of the number of a set."""
    x, y, out, in_place = arrays.logits, arrays.labels, arrays.buffers, arrays.in_place
    plain = functools.partial(fx.cross_entropy, check_target=False)
    return {
        "cross_entropy": {
            "fastxent": lambda k: plain(x[k], y[k], grad_out=out[k]),
            "fastxent_in_place": lambda k: plain(in_place[k], y[k], grad_out=in_place[k]),
        },
        "loss": {"fastxent": lambda k: plain(x[k], y[k])},
        "softmax": {"fastxent": lambda k: fx.softmax(x[k], out=out[k])},
    }[job]  # fmt: skip


def torch_call(arrays, job, compiled):
    """The same job in PyTorch, with the loss in its graph and a backward pass."""
    torch = arrays.gpu.torch
    x, y = arrays.logits, arrays.labels

    def loss(x, y):
        return torch.nn.functional.cross_entropy(x, y)

    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, dynamic=False)

    def both(k):
        leaf = x[k].detach().requires_grad_()
        value = loss(leaf, y[k])
        return value.detach(), *torch.autograd.grad(value, leaf)

    def alone(k):
        with torch.no_grad():
            return loss(x[k], y[k])

    calls = {"cross_entropy": both, "loss": alone, "softmax": lambda k: torch.softmax(x[k], -1)}
    return calls[job]


def all_sides(arrays, job, peers):
    """Name -> call(k) of fastxent, its peers and a copy of as many bytes."""
    gpu, x, out = arrays.gpu, arrays.logits, arrays.buffers
    rows = copied_rows(job, arrays.rows)
    sides = {"copy": lambda k: gpu.copy(x[k], out[k], rows)} | fastxent_calls(arrays, job)
    if "torch" in peers:
        sides["torch"] = deferred(lambda: torch_call(arrays, job, False))
    if "torch_compile" in peers and job == "cross_entropy":  # it compiles for minutes
        sides["torch_compile"] = deferred(lambda: torch_call(arrays, job, True))
    return sides


def deferred(make):
    """A call that `make` creates at its first use, so that errors are raised there."""
    call = functools.cache(make)
    return lambda k: call()(k)
