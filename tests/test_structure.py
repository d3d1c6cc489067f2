"""The house: imports point down, names are complete, families join without touching a function."""

import ast
import inspect
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent import dispatch, reference

PACKAGE = Path(fx.__file__).parent

# Each layer may import itself where it says so, and what stands below it.
LAYERS = [
    {"__init__"},
    {"__main__", "cli"},
    {"bench"},
    {"integrations", "_warmup"},
    {"warmup_processes"},
    {"warmup_steps"},
    {"_softmax", "_cross_entropy", "_binary", "_linear", "_hvp"},
    {"prepared"},
    {"plain", "calls"},
    {"checks", "dispatch"},
    {"arrays"},
    {"cpu", "cuda"},
    {"backend", "device_array"},
    {"records"},
    {"functions"},
    {"options"},
    {"formulas", "errors", "results", "reference", "kernel_files", "forks", "_version"},
]
# Within cpu: what a file may import of that package. Kernel files see nothing of threads or blocks.
KERNEL_FILES = [
    "entropy_kernels", "few_class_hvp_kernels", "hvp_kernels", "conversion_kernels",
    "few_class_kernels", "groups", "tiles", "binary_kernels", "categorical_kernels", "kernels",
    "row", "vector_math", "columns", "labels", "scratch", "memory", "half_lanes", "partial",
    "float_mode", "c_interface", "label_type", "lanes", "jit", "linked_code",
]  # fmt: skip
WITHIN_CPU = {
    "__init__": set(),
    "backend": {"binary", "entropy", "hvp", "launch", "linear", "linear_hvp", "prepared"},
    "prepared": {"arguments", "binary", "blocks", "launch"},
    "binary": {"arguments", "launch", "jit", "blocks"},
    "linear": {"launch", "blocks", "conversion"},
    "linear_hvp": {"linear", "hvp", "launch", "blocks", "conversion"},
    "hvp": {"launch", "arguments", "label_type", "jit", "blocks"},
    "entropy": {"launch", "arguments", "jit", "blocks"},
    "xla_kernels": {
        *"arguments c_interface kernel_calls launch kernels labels scratch jit".split(),
        *"blocks threads hvp xla_interface".split(),
    },
    "xla_interface": {"c_interface", "jit"},
    "kernel_calls": {"jit"},
    "target": {"lanes"},
    "launch": {"arguments", "label_type", "jit", "blocks"},
    "arguments": {"half_lanes", "lanes"},
    "blocks": {"conversion", "threads"},
    "conversion": {"arguments", "jit"},
    "pages": set(),
    "threads": {"helpers"},
    "helpers": set(),
} | {name: set(KERNEL_FILES[k + 1 :]) for k, name in enumerate(KERNEL_FILES)}
# Within cuda likewise: functions, what they are made of, kernels, and the ground of all.
_KERNELS = {
    "hvp_kernels": {"softmax_kernels", "sharing", "scans", "targets", "rows", "groups"},
    "sharing": {"layouts", "groups"},
    "scans": {"layouts", "groups"},
    "layouts": {"columns", "access", "groups"},
    "split_kernels": {
        *"kernels loss_terms softmax_kernels parts sharing targets rows groups".split(),
    },
    "kernels": {
        *"loss_terms softmax_kernels sharing scans targets rows groups".split(),
    },
    "loss_terms": {"targets"},
    "categorical_kernels": {"targets", "rows", "scans", "groups"},
    "softmax_kernels": {"parts", "sharing", "rows", "groups"},
    "parts": {"sharing", "rows", "groups"},
    "binary_kernels": {"scans", "rows", "groups"},
    "conversion_kernels": {"targets", "rows"},
    "reduction_kernels": {"targets", "groups"},
    "targets": set(),
    "rows": {"scans", "layouts", "columns", "access", "groups"},
    "columns": {"transposes", "access", "groups"},
    "transposes": {"groups"},
    "access": {"groups"},
    "groups": set(),
}
_LAUNCH = {"launch", "elements", "groups", "parameters"}
WITHIN_CUDA = {
    "__init__": set(),
    "backend": {
        "binary", "cross_entropy", "divisors", "hvp", "labels", "linear", "linear_hvp", "scale",
        "softmax",
    },
    "linear_hvp": {"conversion", "cross_entropy", "hvp", "linear"},
    "hvp": {*_LAUNCH, "cross_entropy", "hvp_kernels", "kernels", "thread_plans", "blocks"},
    "linear": {"conversion", "cross_entropy", "divisors", "kernels", "labels"},
    "binary": {
        *_LAUNCH, "binary_kernels", "thread_plans", "blocks", "conversion", "cross_entropy",
        "divisors",
    },
    "cross_entropy": {
        *_LAUNCH, "kernels", "split_kernels", "categorical_kernels", "thread_plans", "blocks",
        "conversion", "divisors", "labels",
    },
    "softmax": {*_LAUNCH, "softmax_kernels", "thread_plans", "blocks", "conversion"},
    "scale": {*_LAUNCH, "conversion_kernels", "thread_plans", "blocks"},
    "labels": {
        *_LAUNCH, "reduction_kernels", "conversion_kernels", "conversion", "divisors", "driver",
    },
    "divisors": {*_LAUNCH, "reduction_kernels", "conversion"},
    "blocks": {*_LAUNCH, "conversion", "thread_plans"},
    "conversion": {*_LAUNCH, "conversion_kernels"},
    "plans": {"driver", "reduction_kernels"},
    "thread_plans": {"driver", "elements", "groups"},
    "launch": {"driver", "jit", "elements", "groups", "thread_plans"},
    "driver": {"jit"},
    "jit": {"parameters"},
    **{name: below | {"elements", "intrinsics", "parameters"} for name, below in _KERNELS.items()},
    "parameters": set(),
    "elements": {"intrinsics"},
    "intrinsics": set(),
}  # fmt: skip
# What the families of GPU arrays may import beside what all of them have in common.
DEVICES = {
    "plans": [],
    "foreign": ["torch", "memory"],
    "interface": ["device", "plans"],
    "cupy": ["device", "interface", "plans"],
    "dlpack": ["interface"],
}
# Within the family of PyTorch's tensors likewise.
WITHIN_TORCH = {
    "__init__": ["operators", "functional", "autograd", "memory", "refusals"],
    "operators": [*"operator_arguments operator_rules outside memory refusals functional".split()],
    "operator_arguments": ["foreign", "refusals", "storage"],
    "operator_rules": [*"operator_arguments batches gradients maps memory refusals second".split()],
    "outside": ["memory"],
    "functional": ["batches", "gradients", "maps", "second"],
    "autograd": [*"rebuilt_logits maps batches gradients memory refusals second outside".split()],
    "rebuilt_logits": [],
    "second": ["batches", "gradients", "memory", "products", "refusals"],
    "maps": ["batches", "gradients", "memory"],
    "batches": [],
    "products": ["gradients", "memory"],
    "gradients": ["memory", "operators"],
    "memory": ["gpu", "refusals", "storage"],
    "gpu": ["device", "interface", "plans", "storage"],
    "refusals": ["storage"],
    "storage": ["borrowed"],
}
# Within the family of Dask's arrays likewise.
WITHIN_DASK = {
    "__init__": ["request", "rows", "classes", "linear"],
    "linear": ["classes", "rows", "request", "blocks"],
    "classes": ["class_chunks", "rows", "labels", "request", "blocks"],
    "rows": ["labels", "request", "blocks"],
    "labels": ["request", "blocks"],
    "request": ["device", "foreign", "shapes"],
    "shapes": [],
    "class_chunks": ["blocks"],
}
# The families that are folders.
FOLDERS = {"torch": WITHIN_TORCH, "dask": WITHIN_DASK}


def imports(path):
    """The fastxent modules that a file imports, at any depth of the file; [] for the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if (node.module or "").partition(".")[0] == "fastxent":
                parts = node.module.split(".")[1:]
                for alias in node.names:
                    is_module = PACKAGE.joinpath(*parts, f"{alias.name}.py").exists()
                    yield [*parts, alias.name] if is_module else parts
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "fastxent":
                    yield alias.name.split(".")[1:]


def level(name):
    return next(k for k, layer in enumerate(LAYERS) if name in layer)


def test_imports_point_down():
    """No module imports from above or beside its layer; packages within themselves."""
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts
        for parts in imports(path):
            checked += 1
            if own[0] in ("cli", "__main__", "integrations") and parts[:1] != ["cpu"]:
                continue  # they stand above all of it
            if own[0] == "bench" and parts[:1] in ([], ["bench"]):
                continue  # likewise, but it knows nothing of the command line
            assert parts, f"{own} imports the package it is part of"
            if parts[0] == own[0] == "arrays":
                folder = own[1] if own[1] in FOLDERS else None
                within = FOLDERS.get(folder, DEVICES).get(own[-1], [])
                other = parts[-1] if folder else parts[1]
                assert parts[1:] == ["views"] != own[1:] or other in within, (own, parts)
            elif parts[0] == own[0] == "cuda":
                assert parts[1] in WITHIN_CUDA[own[1]], (own, parts)
            elif parts[0] == own[0] == "cpu":
                assert parts[1] in WITHIN_CPU[own[1]], (own, parts)
            else:
                assert level(parts[0]) > level(own[0]), (own, parts)
            if own[0] == "cpu" and own[1] in KERNEL_FILES:
                below = ("cpu", "formulas", "kernel_files", "forks", "_version")
                assert parts[0] in below, (own, parts)
    assert checked > 30


def test_cpu_and_cuda_never_meet_and_reference_knows_numpy_alone():
    """The backends do not know each other; the reference imports nothing of the package."""
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0]
        for parts in imports(path):
            assert {own, *parts[:1]} != {"cpu", "cuda"}
    assert list(imports(PACKAGE / "reference.py")) == []


def test_every_file_says_what_it_is_for():
    """A docstring at the top of each module, and lines short enough to read."""
    for path in PACKAGE.rglob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, path
        assert docstring.splitlines()[0].endswith((".", "):", ":")), path


def test_public_names():
    """__all__ is what is there; the signatures are those of the reference but for buffers."""
    public = {name for name, value in vars(fx).items()
              if not name.startswith("_") and not isinstance(value, types.ModuleType)}  # fmt: skip
    assert public | {"__version__"} == set(fx.__all__)
    buffers = {"out", "grad_out", "probs_out", "accumulate"}
    for name in reference.__all__:
        if name == "LinearGrad":
            assert reference.LinearGrad._fields == fx.LinearGrad._fields
            continue
        ours = inspect.signature(getattr(fx, name)).parameters
        theirs = inspect.signature(getattr(reference, name)).parameters
        assert [p for p in ours if p not in buffers] == list(theirs), name
        for parameter, value in theirs.items():
            assert ours[parameter].default == value.default, (name, parameter)
            assert ours[parameter].kind == value.kind, (name, parameter)


def test_compile_options_stand_once():
    """Options of njit only in jit.py (and bare in formulas); never fastmath or parallel."""
    for path in set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("bench/peers/*.py")):
        source = path.read_text()
        code = "\n".join(ast.unparse(node) for node in ast.parse(source).body[1:])
        assert not re.search(r"fastmath|prange|parallel=", code), path
        if "njit" in code:
            assert path.name in ("jit.py", "formulas.py"), path


def test_kernels_fit_on_a_screen():
    """No compiled function is longer than a screen of 60 lines."""
    names = ("groups", "row", "vector_math")
    files = [PACKAGE / "cpu" / f"{name}.py" for name in names]
    kernels = [path for path in PACKAGE.glob("cpu/*kernels.py") if path.stem != "xla_kernels"]
    for path in [*files, *kernels, *PACKAGE.glob("cuda/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            inner = isinstance(node, ast.FunctionDef) and not any(
                isinstance(part, ast.FunctionDef) for part in ast.walk(node) if part is not node
            )  # what makes a kernel holds several
            if inner:
                assert node.end_lineno - node.lineno < 60, (path.name, node.name)


# --- a family joins -------------------------------------------------------------------------


class Boxed:
    """A foreign array: it hides a NumPy array and offers no way for NumPy to see it."""

    __array__ = None

    def __init__(self, hidden):
        self.hidden = hidden


class StubFamily(types.ModuleType):
    """A family as a module in fastxent.arrays would be: views in, the same kind out."""

    def call(self, function, *args, **kwargs):
        def open_box(value):
            return value.hidden if isinstance(value, Boxed) else value

        result = function(*map(open_box, args), **{k: open_box(v) for k, v in kwargs.items()})
        return self.close(result, [*args, *kwargs.values()])

    def close(self, result, given):
        if isinstance(result, tuple):
            parts = [self.close(part, given) for part in result]
            return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
        for value in given:
            if isinstance(value, Boxed) and value.hidden is result:
                return value
        return None if result is None else Boxed(np.asarray(result))


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setitem(sys.modules, "stub_family", StubFamily("stub_family"))
    monkeypatch.setattr(dispatch, "_FAMILIES", {})
    monkeypatch.setattr(dispatch, "_named", {np.ndarray: ""})
    dispatch.register(Boxed.__module__.partition(".")[0], "stub_family")


def test_another_family_joins(stub, rng):
    """A stub family gets every public function, buffers and tuples, with no function touched."""
    logits, labels = rng.standard_normal((4, 3)), np.array([0, 2, 1, 1])
    grad_out = Boxed(np.empty((4, 3)))
    loss, grad, lse = fx.cross_entropy(
        Boxed(logits), Boxed(labels), grad_out=grad_out, return_lse=True
    )
    want = fx.cross_entropy(logits, labels, return_grad=True, return_lse=True)
    assert grad is grad_out
    for got, array in zip((loss, grad, lse), want, strict=True):
        np.testing.assert_array_equal(got.hidden, array)
    for name in ("softmax", "log_softmax", "logsumexp"):
        got = getattr(fx, name)(Boxed(logits))
        np.testing.assert_array_equal(got.hidden, getattr(fx, name)(logits))
    loss, grad = fx.linear_cross_entropy(
        x=Boxed(logits), linear_weight=Boxed(np.eye(3)), target=labels, return_grad=True
    )
    want = fx.linear_cross_entropy(logits, np.eye(3), labels, return_grad=True)
    np.testing.assert_array_equal(loss.hidden, want[0])
    np.testing.assert_array_equal(grad.linear_weight.hidden, want[1].linear_weight)
    assert grad.linear_bias is None


def test_families_are_chosen_by_the_type_alone(stub):
    """The choice is cached by type; a subclass joins its base's family; others are NumPy's."""

    class Derived(Boxed):
        __module__ = "elsewhere"

    family = sys.modules["stub_family"]
    assert dispatch.family_of(Derived(np.ones(3))) is family
    assert dispatch._named[Derived] == "stub_family"
    for value in (np.ones(3), [1.0], 1.0, np.float32(1), None):
        assert dispatch.family_of(value) is None


def test_missing_argument_is_pythons_own_error():
    """A call without its first argument says so as any Python function does."""
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'logits'"):
        fx.softmax()
