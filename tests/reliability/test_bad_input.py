"""Bad and odd calls: the documented error or result, and nothing else written."""

import ast
import re
from pathlib import Path

import calls
import faults
import ml_dtypes
import numpy as np
import odd_calls
import pytest

import fastxent as fx
from fastxent import reference

FAULTS = [*faults.REFUSED, *odd_calls.ODD, *odd_calls.ODD_PLACES]


def refused(function, arguments, error, says, positional=()):
    """Assert that the call raises this error with this message and changes no argument."""
    before = calls.fingerprints(arguments)
    try:
        function(*positional, **arguments)
    except Exception as raised:
        assert type(raised) is error, f"raised {type(raised).__name__}: {raised}"
        assert re.search(says, str(raised), re.DOTALL), f"said {raised}"
    else:
        raise AssertionError("raised nothing")
    assert calls.fingerprints(arguments) == before, "changed its arguments"


def named_in(of, name):
    """Whether a call is of one of these functions."""
    return of is None or name in of or name.partition(" ")[0] in of


def tries_of(fault):
    """Each call with the bad argument: a name, and a function that makes the call."""
    for name in calls.NAMES:
        for argument in fault.where:
            first = argument.partition(".")[0]
            if first not in calls.takes(name) or not named_in(fault.of, name):
                continue
            if "." in argument and not name.startswith("linear"):
                continue
            is_tuple = argument in ("grad_out", "out", "vector")
            if is_tuple and name.startswith("linear") and not fault.of:
                continue  # its parts are tried instead
            for dtype in fault.on:
                yield f"{name} {argument} {dtype.__name__}", bad_call(fault, name, argument, dtype)


def bad_call(fault, name, argument, dtype):
    def attempt():
        arguments = calls.good(name, dtype) | fault.given
        value = fault.instead(calls.get(arguments, argument))
        says = rf"^{re.escape(argument)}\b.*?{fault.says}"
        arguments = calls.replaced(arguments, argument, value)
        refused(calls.function_of(name), arguments, fault.error, says)

    return attempt


def clashes_of(fault):
    """Each call with arguments that do not match."""
    for name in calls.NAMES:
        if not named_in(fault.of, name):
            continue
        for dtype in calls.FLOATS:
            yield f"{name} {dtype.__name__}", clash(fault, name, dtype)


def clash(fault, name, dtype):
    def attempt():
        everything = calls.good(name.replace(calls.PLAIN, "cross_entropy"), dtype)
        changes = fault.instead(everything)
        arguments = {k: v for k, v in everything.items() if k in calls.takes(name)}
        # None removes an argument that only some functions have.
        arguments |= {k: v for k, v in changes.items() if v is not None or k in arguments}
        refused(
            calls.function_of(name), arguments, fault.error, f"^({fault.argument}).*{fault.says}"
        )

    return attempt


@pytest.mark.parametrize("fault", faults.REFUSED, ids=lambda fault: fault.name)
def test_refused(one_fault, fault):
    """A bad argument raises the documented error, which names it; nothing is written."""
    if isinstance(fault, faults.Clash):
        one_fault("bad", clashes_of(fault))
    else:
        one_fault("bad", [*tries_of(fault), *(threads_of(fault) if "n" in fault.where else ())])


def threads_of(fault):
    """The functions that take a number of threads."""
    for function in (fx.set_num_threads, fx.num_threads):

        def attempt(function=function):
            before = fx.get_num_threads()
            refused(function, {"n": fault.instead(None)}, fault.error, rf"^n\b.*{fault.says}")
            assert fx.get_num_threads() == before

        yield function.__name__, attempt


@pytest.mark.parametrize("name", faults.POSITIONAL)
def test_refused_by_python(one_fault, name):
    """Too few arguments, too many, or one twice."""
    function, positional, given, says = faults.POSITIONAL[name]

    def attempt():
        x = np.ones((4, 3))
        refused(function, given, TypeError, says, positional(x))
        assert (x == 1).all()

    one_fault("bad", [(name, attempt)])


@pytest.mark.parametrize("name", faults.WARMUP)
def test_refused_by_warmup(one_fault, name):
    """Names that are not types or functions raise; nothing is compiled."""
    arguments, error, says = faults.WARMUP[name]
    one_fault("bad", [(name, lambda: refused(fx.warmup, arguments, error, f"^{says}"))])


# --- odd calls ------------------------------------------------------------------------------------


def parts(result):
    """A result's arrays, one after the other."""
    if isinstance(result, tuple):
        return [part for each in result for part in parts(each)]
    return [] if result is None else [result]


def same_bits(got, want):
    """Assert that two results are equal, each part a C-ordered array or a number."""
    got, want = parts(got), parts(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert type(a) is type(b), f"{type(a)} instead of {type(b)}"
        assert isinstance(a, np.generic) or type(a) is np.ndarray and a.flags.c_contiguous
        assert a.dtype == b.dtype
        assert a.dtype.isnative
        np.testing.assert_array_equal(a, b)


def near(got, want):
    """Assert that a result is the reference's up to rounding; test_accuracy.py has the bounds."""
    for a, b in zip(parts(got), parts(want), strict=True):
        eps = float(ml_dtypes.finfo(a.dtype).eps)
        with np.errstate(all="ignore"):  # beyond the type's range it is infinite
            b = np.asarray(b).astype(a.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=64 * eps, atol=64 * eps)


def odd_call(name, arguments, module=fx):
    """The call with `return_grad`, if the function has it."""
    flags = {"return_grad": True} if "return_grad" in calls.takes(name) else {}
    return calls.function_of(name, module)(**flags | arguments)


def odd_tries(fault):
    """Each call with the unusual argument."""
    for name in calls.NAMES:
        for argument in fault.where:
            if argument in calls.takes(name) and named_in(fault.of, name):
                for dtype in calls.FLOATS:
                    yield f"{name} {argument} {dtype.__name__}", odd(fault, name, argument, dtype)


def odd(fault, name, argument, dtype):
    def attempt():
        everything = calls.good(name, dtype)
        kept = (*calls.REQUIRED, argument)
        base = {key: value for key, value in everything.items() if key in kept}
        base |= {key: value for key, value in fault.given.items() if key in calls.takes(name)}
        base = calls.fitting(base)
        value = fault.instead(base.get(argument))
        plain = fault.plain(base.get(argument)) if fault.plain else value
        arguments = base | {argument: value}
        before = calls.fingerprints(arguments)
        got = odd_call(name, arguments)
        assert calls.fingerprints(arguments) == before, "changed its arguments"
        for result in parts(got):
            for given in calls.arrays(tuple(arguments.values())):
                assert not np.shares_memory(result, given), "gave an input's memory back"
        same_bits(got, odd_call(name, base | {argument: plain}))
        near(got, odd_call(name, base | {argument: plain}, reference))

    return attempt


@pytest.mark.parametrize("fault", odd_calls.ODD, ids=lambda fault: fault.name)
def test_odd(one_fault, fault):
    """An unusual argument gives the bits of the plain one; inputs are unchanged."""
    one_fault("odd", odd_tries(fault))


def places_of(fault):
    """Each call with the unusual buffer."""
    for name in calls.NAMES:
        if named_in(fault.of, name):
            for dtype in calls.FLOATS:
                yield f"{name} {dtype.__name__}", placed(fault, name, dtype)


def placed(fault, name, dtype):
    def attempt():
        everything = calls.good(name, dtype)
        changes = fault.instead(everything)
        given = {key: changes.pop(key) for key in calls.BUFFERS if key in changes}
        buffers = calls.arrays(tuple(given.values()))
        base = {key: value for key, value in everything.items() if key in calls.REQUIRED}
        inputs = calls.fitting(base | changes)
        copies = {key: np.copy(value) for key, value in inputs.items() if key != "accumulate"}
        flags = {"return_probs": True} if "probs_out" in given else {}
        want = parts(odd_call(name, copies | flags))
        if "accumulate" in inputs:
            want[1:] = [grad + calls.POISON for grad in want[1:]]
        beside = rest(buffers)
        got = parts(odd_call(name, inputs | given))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
        assert [id(a) for a in got[-len(buffers) :]] == [id(a) for a in buffers]
        assert rest(buffers) == beside, "wrote beside its buffer"
        for key, copy in copies.items():
            if not any(np.shares_memory(inputs[key], buffer) for buffer in buffers):
                np.testing.assert_array_equal(inputs[key], copy)

    return attempt


def rest(buffers):
    """The bits of the memory around buffers, without their own."""
    kept = [buffer.copy() for buffer in buffers]
    for buffer in buffers:
        buffer[...] = 0
    bits = [np.ndarray.tobytes(calls.memory(buffer)) for buffer in buffers]
    for buffer, values in zip(buffers, kept, strict=True):
        buffer[...] = values
    return bits


@pytest.mark.parametrize("fault", odd_calls.ODD_PLACES, ids=lambda fault: fault.name)
def test_odd_buffers(one_fault, fault):
    """An unusual buffer is filled and returned, and the memory around it is unchanged."""
    one_fault("odd", places_of(fault))


# --- the tables and the messages ------------------------------------------------------------------


def test_faults_are_distinct():
    """There are at least 300 faults, all different in name and content."""
    tables = [fault.name for fault in FAULTS], list(faults.POSITIONAL), list(faults.WARMUP)
    for names in tables:
        assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)
    assert sum(map(len, tables)) >= 300
    seen = {}
    for fault in faults.REFUSED:
        what, value = shown(fault)
        assert what not in seen, f"{fault.name} is {seen[what]}"
        seen[what] = fault.name, value  # kept alive, because its id may be its only distinction


def shown(fault):
    """A key for a replacement and its argument, to compare faults by."""
    if isinstance(fault, faults.Clash):
        return fault.name, None
    name = next(
        (name for name in calls.NAMES if fault.where[0].partition(".")[0] in calls.takes(name)
         and ("." in fault.where[0]) <= name.startswith("linear") and named_in(fault.of, name)),
        None,
    )  # fmt: skip
    good = None if name is None else calls.get(calls.good(name, np.float64), fault.where[0])
    value = fault.instead(good)
    layout = None
    if isinstance(value, np.ndarray):
        owners = type(value.base), type(calls.memory(value).base)
        layout = value.dtype, value.strides, value.flags.writeable, value.flags.aligned, owners
    return repr((fault.where, name, fault.given, fault.on, type(value), value, layout)), value


def test_what_is_wrong_is_named():
    """An error in the target's shape names the argument that it does not match."""
    for name, of in (
        ("cross_entropy", "logits"),
        ("categorical_cross_entropy", "probs"),
        ("linear_cross_entropy", "x @ linear_weight.T"),
    ):
        arguments = calls.good(name, np.float64) | {"target": [0, 1]}
        refused(calls.function_of(name), arguments, ValueError, f"^target .* for {of} of shape")


def test_first_bad_row_is_named(rng):
    """The error names the first of many bad labels in row order, with its value."""
    labels = rng.integers(0, 3, 300_000)
    labels[[299_999, 123_456, 200_000]] = [77, 55, 66]
    grad = np.full((300_000, 3), calls.POISON, np.float32)
    with pytest.raises(IndexError, match=r"target\[123456\] .*got 55"):
        fx.cross_entropy(np.zeros((300_000, 3), np.float32), labels, grad_out=grad)
    assert (grad == calls.POISON).all()
    with pytest.raises(IndexError, match=r"target\[1, 0\] .*got 9"):
        fx.cross_entropy(np.zeros((2, 3, 2)), [[0, 1], [9, 8]], axis=1)
    with pytest.raises(IndexError, match=r"target\[\(\)\] .*got 3"):
        fx.cross_entropy([0.0, 1.0], 3)


def test_ranges_are_those_of_the_arithmetic():
    """A factor beyond the range of float32 is accepted in float64."""
    for options in ({"softcap": 1e300}, {"logit_scale": 1e39}, {"logit_scale": -1e-50}):
        arguments = calls.good("cross_entropy", np.float64)
        assert np.isfinite(fx.cross_entropy(arguments["logits"], arguments["target"], **options))


def test_messages_come_from_one_file():
    """Every text of an error that an argument can cause stands in errors.py, or where that says."""
    package = Path(fx.__file__).parent
    elsewhere = ("errors.py", "reference.py", "cli/", "bench/", "cuda/driver.py", "cuda/jit.py",
                 "cuda/parameters.py")  # fmt: skip
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name.startswith(elsewhere):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                raised = ast.unparse(node.exc.func)
                assert not raised.endswith(("ValueError", "TypeError", "IndexError")), (
                    name,
                    raised,
                )
