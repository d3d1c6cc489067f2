"""The descriptions say what the functions do: parameters, results, and nobody asks for names."""

import ast
import importlib
import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent import backend, reference
from fastxent.functions import FUNCTIONS, Kind, Role
from fastxent.options import Options
from fastxent.results import RULES, Extent, Outputs, Type

PACKAGE = Path(fx.__file__).parent
each = pytest.mark.parametrize("name", FUNCTIONS)


def arguments(function, dtype=np.float64):
    """The arguments of a function that have no default, of four rows and three classes."""
    rng = np.random.default_rng(0)
    shapes = {Role.INPUT: (4, 5) if function.kind is Kind.LINEAR else (4, 3), Role.MATRIX: (3, 5)}
    given = {}
    for name in function.positional:
        role = function.roles[name]
        if role is Role.TARGET:
            elements = function.kind is Kind.ELEMENTS
            given[name] = rng.random((4, 3)) if elements else rng.integers(0, 3, 4)
        elif role is Role.VECTOR:
            parts = [rng.random(given[n].shape) for n in function.inputs if n in given]
            given[name] = (*parts, None) if function.kind is Kind.LINEAR else parts[0]
        else:
            given[name] = rng.random(shapes[role]).astype(dtype)
    return given


@each
def test_every_public_function_is_described(name):
    """By its own name, with the parameters that it has and an argument of each kind."""
    function = FUNCTIONS[name]
    assert function.public is getattr(fx, name)
    assert list(function.parameters) == list(inspect.signature(function.public).parameters)
    assert set(function.inputs) <= set(function.arrays)
    assert function.first == function.positional[0]
    assert set(FUNCTIONS) == set(reference.__all__) - {"LinearGrad"}


@each
def test_a_description_is_pickled_by_its_name(name):
    """A task in another process finds the same function."""
    assert pickle.loads(pickle.dumps(FUNCTIONS[name])) is FUNCTIONS[name]


@each
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_results_have_the_shapes_and_types_described(name, dtype, reduction):
    """All of them at once, in the order of the description."""
    function = FUNCTIONS[name]
    given = arguments(function, dtype)
    how = {flag: True for flag in function.with_role(Role.REQUEST)}
    if function.is_loss:
        how["reduction"] = reduction
    results = function.public(**given, **how)
    one = not isinstance(results, tuple) or isinstance(results, fx.LinearGrad)
    results = (results,) if one else results
    assert len(results) == len(function.results)
    wide = dtype in (np.float64, np.int64)
    types = {
        Type.LOSS: np.float64 if wide else np.float32,
        Type.OWN: np.float64 if dtype is np.int64 else dtype,
        Type.INDEX: np.int64,
    }
    for result, array in zip(function.results, results, strict=True):
        if isinstance(array, fx.LinearGrad):
            inputs = [given[n].shape for n in function.inputs[:2]]
            assert [part.shape for part in array[:2]] == inputs
            continue
        shape = function.shape(result, given[function.first].shape, -1, reduction)
        assert array.shape == shape, result
        assert array.dtype == types[function.result(result).type], result


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_result_is_computed(name, dtype):
    """All of them at once: a result that a kernel does not write is what its memory held."""
    function = FUNCTIONS[name]
    values = arguments(function, dtype)
    how = {flag: True for flag in function.with_role(Role.REQUEST)}
    got, want = (call(**values, **how) for call in (function.public, getattr(reference, name)))
    for one, exact in zip(flat(got), flat(want), strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-5, atol=1e-7)


def flat(results):
    """The arrays of nested tuples, in order; None is left out."""
    if not isinstance(results, tuple):
        return [] if results is None else [results]
    return [array for part in results for array in flat(part)]


def test_options_and_results_are_fields():
    """Each option has a check, each result a rule, and a function takes no others."""
    for function in FUNCTIONS.values():
        for name, parameter in function.parameters.items():
            if name in Options._fields:
                assert parameter.default == Options._field_defaults[name], name
                assert name in {option.name for option in function.options}
            if function.roles[name] is Role.REQUEST:
                assert name.removeprefix("return_") in Outputs._fields
            if function.roles[name] is Role.BUFFER and name != "out":
                assert name.removesuffix("_out") in function.results
    assert set(RULES) == set(Outputs._fields)
    assert {rule.extent for rule in RULES.values() if rule} == {*Extent}


PLAIN = {
    "cross_entropy": {
        "axis": 0, "weight": np.ones(3), "sample_weight": np.ones(3), "label_smoothing": 0.1,
        "z_loss": 0.1, "logit_scale": 2.0, "softcap": 1.0, "reduction": "none", "normalizer": 2.0,
        "check_target": False, "return_probs": True, "return_lse": True, "return_hess": True,
        "return_argmax": True, "return_entropy": True, "probs_out": np.empty((3, 3)),
    },
    "categorical_cross_entropy": {
        "axis": 0, "weight": np.ones(3), "sample_weight": np.ones(3), "eps": 0.1,
        "reduction": "none", "check_target": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_call_is_one_without_options(name):
    """A call with any option at another value does not take the fast path."""
    from fastxent import _cross_entropy

    public, others = getattr(fx, name), PLAIN[name]
    _, *parameters = inspect.signature(public).parameters
    assert set(parameters) == {"target", "ignore_index", "return_grad", "grad_out"} | set(others)
    taken = []

    def note(*args):
        taken.append(args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cross_entropy, "plain_cross_entropy", note)
        for option, value in others.items():
            public(np.eye(3), [0, 1, 2], **{option: value})
            assert not taken, option
        public(np.eye(3), [0, 1, 2])
    assert taken


# --- who reads them -------------------------------------------------------------------------


def test_nobody_asks_for_a_functions_name():
    """No comparison with a function's name, and no list of them, but in the descriptions."""
    names = re.compile(r"(?:binary_|categorical_|linear_)?cross_entropy(?:_with_logits)?$|"
                       r"(?:log_)?softmax$|logsumexp$")  # fmt: skip
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).as_posix()
        if own == "functions.py" or own.startswith(("cli/", "bench/", "reference")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("startswith"):
                parts = [ast.Constant(part) for part in ("binary_", "categorical_", "linear_")
                         if part[:-1] in ast.unparse(node)]  # fmt: skip
                assert not parts, (own, node.lineno)
            else:
                continue
            for part in parts:
                text = part.value if isinstance(part, ast.Constant) else ""
                assert not (isinstance(text, str) and names.match(text)), (own, node.lineno)


@pytest.mark.parametrize(
    "name, protocol", [("cpu", backend.HostBackend), ("cuda", backend.DeviceBackend)]
)
def test_a_backend_offers_what_the_protocol_says(name, protocol):
    """Under the same names, with the same parameters; each function of the package is one."""
    if name == "cuda":
        pytest.importorskip("numba_cuda", reason="numba-cuda is optional")
    module = importlib.import_module(f"fastxent.{name}.backend")
    promised = {n: f for n, f in inspect.getmembers(protocol, inspect.isfunction) if n[0] != "_"}
    assert set(promised) == set(module.__all__)
    assert set(FUNCTIONS) <= set(promised)
    for function, promise in promised.items():
        theirs = list(inspect.signature(promise).parameters)[1:]
        ours = list(inspect.signature(getattr(module, function)).parameters)
        assert ours == theirs, function
