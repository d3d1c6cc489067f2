"""Trace training steps on fake CUDA tensors with torch.compile; print what is wrong as JSON.

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
    print(json.dumps(found))


if __name__ == "__main__":
    main()
