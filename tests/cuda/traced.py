"""Trace training steps and transforms on fake CUDA tensors; print what is wrong as JSON.

`python traced.py [library]`: of `no_device.cpp`, for PyTorch's builds without CUDA, which has to be
loaded before PyTorch.
"""

import ctypes
import json
import sys
from pathlib import Path

for library in sys.argv[1:]:
    ctypes.CDLL(library)

import torch  # noqa: E402
from torch._dynamo.backends.common import aot_autograd  # noqa: E402
from torch._functorch.aot_autograd import make_boxed_func  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

import fastxent as fx  # noqa: E402

graphs = []


def recorded(graph, inputs):
    graphs.append(graph)
    return make_boxed_func(graph.forward)


def elsewhere(graph):
    """The nodes of a graph, as text, with a tensor that is not on the GPU."""
    found = []
    for node in graph.graph.nodes:
        values = node.meta.get("val")
        if node.op == "get_attr":
            values = getattr(graph, node.target)
        for value in values if isinstance(values, (list, tuple)) else [values]:
            if isinstance(value, torch.Tensor) and not value.is_cuda:
                found.append(f"{node.format_node()} on {value.device}")
    return found


def problems(function, x):
    """What is wrong with the graphs of a step: others than two, or with tensors that lie elsewhere.

    CUDA graphs hold nothing that does.
    """
    graphs.clear()
    torch._dynamo.reset()
    x = x.clone().requires_grad_()
    compiled = torch.compile(
        function, backend=aot_autograd(fw_compiler=recorded, bw_compiler=recorded), fullgraph=True
    )
    found = compiled(x)
    first = found if isinstance(found, torch.Tensor) else found[0]
    first.sum().backward()
    wrong = [] if len(graphs) == 2 else [f"{len(graphs)} graphs"]
    if not (x.grad.is_cuda and x.grad.shape == x.shape):
        wrong.append(f"the gradient is {x.grad}")
    return wrong + [text for graph in graphs for text in elsewhere(graph)]


def transformed(x, y, soft):
    """Transforms of torch.func over a batch of calls, by name, as calls without arguments."""
    rows, one = soft.sum(-1), soft[0]
    each_grad = torch.func.vmap(torch.func.grad(fx.cross_entropy))

    def by(**options):
        return torch.func.vmap(lambda x, y: fx.cross_entropy(x, y, **options))

    return {
        "gradients": lambda: each_grad(x, y),
        "gradients of soft labels": lambda: each_grad(x, soft),
        "normalizer": lambda: by(normalizer=2.0)(x, y),
        "weights": lambda: by(weight=one[0], sample_weight=rows[0])(x, y),
        "binary": lambda: torch.func.vmap(fx.binary_cross_entropy_with_logits)(x, soft),
        "of nothing": lambda: torch.func.vmap(fx.binary_cross_entropy)(x[:, :0], soft[:, :0]),
        "hessian": lambda: torch.func.hessian(fx.cross_entropy)(x[0], y[0]),
        "along": lambda: torch.func.jvp(lambda x: fx.cross_entropy(x, y[0]), (one,), (one,))[1],
        "linear": lambda: torch.func.jvp(
            lambda x: fx.linear_cross_entropy(x, one, y[0], reduction="none"), (one,), (one,)
        )[1],
    }


def main():
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with FakeTensorMode():
        with torch.device("cuda"):
            import test_torch_compile as cases  # its tensors are fake ones on the GPU

            cases.OPTIONS["weight"] = torch.ones(3)
        found = {}
        for name, function in cases.FUNCTIONS.items():
            for kind in (torch.float32, torch.float16):
                try:
                    found[f"{name}, {kind}"] = problems(function, cases.X.to(kind))
                except Exception as error:
                    found[f"{name}, {kind}"] = [f"{type(error).__name__}: {error}"]
        x, y = cases.X.expand(5, -1, -1).clone(), cases.Y.expand(5, -1).clone()
        for name, call in transformed(x, y, x.softmax(-1)).items():
            try:
                found[name] = [] if call().is_cuda else ["not on the GPU"]
            except Exception as error:
                found[name] = [f"{type(error).__name__}: {error}"]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
