"""The jobs in PyTorch, eager and compiled."""

from gpu_bench.cases import SMOOTHING


def torch_call(arrays, job, compiled):
    """A function of the number of a set; losses are in the graph, with a backward pass."""
    torch = arrays.gpu.torch
    function, arguments = FUNCTIONS[job](torch), arguments_of(arrays, job)
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(function, dynamic=False)

    def detached(k):
        with torch.no_grad():
            return function(*arguments(k))

    def with_gradient(k):
        x, *others = arguments(k)
        leaf = x.detach().requires_grad_()
        value, *rest = function(leaf, *others)
        ones = torch.ones_like(value) if value.ndim else None
        (grad,) = torch.autograd.grad(value, leaf, ones)
        return value.detach(), grad, *rest

    return with_gradient if job in GRADIENTS else detached


def arguments_of(arrays, job):
    """What a job's function takes, by the number of a set."""
    x, y, extra = arrays.logits, arrays.labels, arrays.extra
    if job in ("softmax", "entropy"):
        return lambda k: (x[k],)
    if job == "soft_targets":
        return lambda k: (x[k], extra[k])
    return lambda k: (x[k], y[k], extra[k]) if job == "hvp" else (x[k], y[k])


def _cross_entropy(torch, **options):
    return lambda x, target: (torch.nn.functional.cross_entropy(x, target, **options),)


def _probs(torch):
    functional = torch.nn.functional
    return lambda x, y: (functional.cross_entropy(x, y), torch.softmax(x.detach(), 1))


def _entropy(torch):
    def entropy(x):
        log_p = torch.log_softmax(x, 1)
        return (-(log_p.exp() * log_p).sum(1),)

    return entropy


def _hvp(torch):
    def product(x, y, v):  # the formula, which costs less than differentiating twice
        p = torch.softmax(x, 1)
        return p * (v - (p * v).sum(1, keepdim=True)) / y.numel()

    return product


GRADIENTS = ("cross_entropy", "soft_targets", "smoothing", "probs", "entropy")
FUNCTIONS = {
    "cross_entropy": _cross_entropy, "loss": _cross_entropy, "soft_targets": _cross_entropy,
    "smoothing": lambda torch: _cross_entropy(torch, label_smoothing=SMOOTHING),
    "softmax": lambda torch: lambda x: torch.softmax(x, 1),
    "probs": _probs, "entropy": _entropy, "hvp": _hvp,
}  # fmt: skip
