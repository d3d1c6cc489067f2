"""torch.compile on CUDA without a GPU: what its graphs are made of, of tensors without numbers.

The kernels themselves are in `cuda/test_torch.py`, and on a GPU in `test_gpu.py`.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastxent as fx

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402 - wants PyTorch

from fastxent.arrays.torch import operators  # noqa: E402 - likewise

HERE = Path(__file__).parent / "cuda"
has_key = torch._C._dispatch_has_kernel_for_dispatch_key
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own imports


@pytest.mark.parametrize("name", operators._OPERATORS)
def test_operators_have_kernels_for_cuda(name):
    """Beside those for every other device."""
    assert has_key(f"fastxent::{name}", "CUDA")
    assert has_key(f"fastxent::{name}", "CompositeExplicitAutograd")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """What a PyTorch without CUDA needs, so that autograd knows of CUDA tensors: [] for others."""
    if torch.backends.cuda.is_built():
        return []
    if not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    root, path = Path(torch.__file__).parent, tmp_path_factory.mktemp("device") / "device.so"
    subprocess.run(
        ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{root}/include",
         HERE / "no_device.cpp", "-o", path, "-Wl,--no-as-needed", f"-L{root}/lib", "-lc10",
         "-ltorch_cpu", f"-Wl,-rpath,{root}/lib"],
        check=True, timeout=300,
    )  # fmt: skip
    return [str(path)]


def test_training_steps_are_two_graphs_on_the_gpu(library):
    """Forward and backward of each function, without a break and without a tensor elsewhere.

    Transforms of torch.func likewise make nothing in host memory.
    """
    done = subprocess.run(
        [sys.executable, HERE / "traced.py", *library],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 45
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.fixture
def fake():
    """The mode of fake tensors, with logits and labels on the GPU and logits in host memory."""
    torch._dynamo.reset()
    with FakeTensorMode() as mode:
        x, y = torch.randn(4, 3, device="cuda"), torch.zeros(4, dtype=torch.int64, device="cuda")
        yield mode, x, y, torch.randn(4, 3)


def test_exported_programs(fake):
    """One operator, whose results are on the GPU, whichever way a program is exported."""
    _, x, y, _ = fake

    class Loss(torch.nn.Module):
        def forward(self, x, y):
            return fx.cross_entropy(x, y, return_grad=True, normalizer=2.0)

    for strict in (False, True):
        program = torch.export.export(Loss(), (x, y), strict=strict)
        called = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
        assert called.count("fastxent.cross_entropy.default") == 1
        loss, grad = (node.meta["val"] for node in program.graph.output_node().args[0])
        assert loss.is_cuda and grad.is_cuda and grad.shape == (4, 3)


WRONG = {
    "labels": ("target", lambda host: torch.zeros(4, dtype=torch.int64)),
    "weight": ("weight", lambda host: [1.0, 2.0, 3.0]),
    "sample_weight": ("sample_weight", lambda host: host[:, 0]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_lies_in_host_memory_is_refused(name, fake):
    """Nothing is copied to the GPU unasked: the eager error, or a break that fullgraph reports."""
    _, x, y, host = fake
    parameter, make = WRONG[name]
    arguments = {"target": y, parameter: make(host)}
    with pytest.raises(TypeError, match=rf"{parameter} is (on cpu|in host memory)"):
        fx.cross_entropy(x, **arguments)
    compiled = torch.compile(fx.cross_entropy, backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="outside"):
        compiled(x, **arguments)
