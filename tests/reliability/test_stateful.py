"""Hypothesis: sequences of calls that share buffers, threads and processes, each as if alone."""

import functools
import gc
import os
import signal
import threading
import time
import traceback
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import fastxent as fx
from fastxent.cpu import threads

STEPS = 25
TRACKED = 12  # number of results that are checked; the oldest are dropped
PATIENCE = 20  # seconds for a child

# Small ones, narrow and wide, and those that are worth several threads and chunks.
SHAPES = [(5, 7), (3, 400), (1500, 400), (30_000, 10)]
ALL = {
    "return_grad": True, "return_probs": True, "return_hess": True, "return_lse": True,
    "return_entropy": True,
}  # fmt: skip


class Given(NamedTuple):
    """The inputs of a call, read-only, because all calls share them."""

    logits: np.ndarray
    probs: np.ndarray
    labels: np.ndarray
    soft: np.ndarray
    features: np.ndarray
    matrix: np.ndarray


@functools.cache
def given(shape, dtype):
    """Inputs of a shape and type, the same at every run."""
    rng = np.random.default_rng(shape)
    logits = rng.normal(0, 3, shape).astype(dtype)
    soft = rng.random(shape).astype(dtype)
    labels = rng.integers(0, shape[1], shape[0])
    labels[::4] = -100
    features, matrix = (rng.normal(0, 1, (n, 6)).astype(dtype) for n in shape)
    made = Given(logits, soft[::-1].copy(), labels, soft, features, matrix)
    for array in made:
        array.flags.writeable = False
    return made


# What is called, of the inputs and a buffer or None.
CALLS = {
    "softmax": lambda g, out: fx.softmax(g.logits, out=out),
    "log_softmax": lambda g, out: fx.log_softmax(g.logits, out=out),
    "plain": lambda g, out: fx.cross_entropy(g.logits, g.labels, return_grad=True, grad_out=out),
    "soft": lambda g, out: fx.cross_entropy(
        g.logits, g.soft, weight=g.soft[0], reduction="none", return_grad=True, grad_out=out
    ),
    "all": lambda g, out: fx.cross_entropy(
        g.logits, g.labels, reduction="none", label_smoothing=0.1, grad_out=out, **ALL
    ),
    "binary": lambda g, out: fx.binary_cross_entropy_with_logits(
        g.logits, g.soft, return_grad=True, grad_out=out
    ),
    "categorical": lambda g, out: fx.categorical_cross_entropy(
        g.probs, g.labels, eps=1e-7, return_grad=True, grad_out=out
    ),
    "binary of probs": lambda g, out: fx.binary_cross_entropy(
        g.probs, g.soft, return_grad=True, grad_out=out
    ),
    "entropy": lambda g, out: fx.entropy(g.logits, return_grad=True, grad_out=out),
    "product": lambda g, out: fx.cross_entropy_hvp(g.logits, g.labels, g.soft, out=out),
    "product with options": lambda g, out: fx.cross_entropy_hvp(
        g.logits, g.soft, g.probs, softcap=5.0, z_loss=0.1, reduction="sum", out=out
    ),
    "binary product": lambda g, out: fx.binary_cross_entropy_with_logits_hvp(
        g.logits, g.soft, g.probs, out=out
    ),
    # Without a buffer of the logits' shape:
    "logsumexp": lambda g, out: fx.logsumexp(g.logits),
    "linear": lambda g, out: fx.linear_cross_entropy(
        g.features, g.matrix, g.labels, return_grad=True
    ),
    "linear product": lambda g, out: fx.linear_cross_entropy_hvp(
        g.features, g.matrix, g.labels, (g.features, None, None)
    ),
}
OF_PROBS = ("categorical", "binary of probs", "binary product")
names = st.sampled_from(sorted(CALLS))
into = st.sampled_from(sorted(set(CALLS) - {"logsumexp", "linear", "linear product"}))
kinds = st.tuples(st.sampled_from(SHAPES), st.sampled_from(["f4", "f8"]))
few = st.integers(1, 4)


def arrays(result):
    """The arrays of a result, one after the other."""
    if isinstance(result, tuple):
        return [array for part in result for array in arrays(part)]
    return [] if result is None else [np.asarray(result)]


def bits(array):
    return np.ascontiguousarray(array).tobytes()


@functools.cache
def alone(name, kind):
    """The bits of an isolated call: copies of the inputs, one thread, no buffer."""
    with fx.num_threads(1):
        return [bits(a) for a in arrays(CALLS[name](Given(*map(np.copy, given(*kind))), None))]


def check(name, kind, result):
    assert [bits(a) for a in arrays(result)] == alone(name, kind), (name, kind)


def over(name):
    """Which input the buffer of a call may lie over: of products one of two, here the vector."""
    return {"product": "soft"}.get(name, "probs" if name in OF_PROBS else "logits")


class Machine(RuleBasedStateMachine):
    """State: buffers, tracked results and scopes of threads; `tried` counts sequences."""

    tried = 0

    def __init__(self):
        super().__init__()
        self.found = threads._explicit
        self.threads = self.outside = fx.get_num_threads()
        self.scopes = []  # (context manager, number before)
        self.buffers = []  # (kind, array)
        self.results = []  # arrays that nobody may write to
        self.expected = {}  # the bits of each array, by its id

    def keep(self, array):
        self.expected[id(array)] = bits(array)

    def hold(self, result, but=None):
        for array in arrays(result):
            if array is not but:
                self.results.append(array)
                self.keep(array)
        for array in self.results[:-TRACKED]:
            del self.expected[id(array)]
        del self.results[:-TRACKED]

    def fill(self, name, kind, inputs, out):
        """A call whose result, or the part of it that has a buffer, is looked after from now on."""
        result = CALLS[name](inputs, out)
        check(name, kind, result)
        self.hold(result, but=out)
        if out is not None:
            self.keep(out)
        return result

    # ---- calls ---------------------------------------------------------------------------------

    @rule(name=names, kind=kinds)
    def call(self, name, kind):
        result = CALLS[name](given(*kind), None)
        check(name, kind, result)
        self.hold(result)

    @rule(kind=kinds, fill=st.sampled_from([0, 7, np.nan]))
    def make_buffer(self, kind, fill):
        self.buffers.append((kind, np.full(kind[0], fill, kind[1])))
        self.keep(self.buffers[-1][1])

    @precondition(lambda self: self.buffers)
    @rule(name=into, data=st.data())
    def call_into(self, name, data):
        """A result is written to a buffer with any contents."""
        kind, buffer = data.draw(st.sampled_from(self.buffers))
        result = self.fill(name, kind, given(*kind), buffer)
        assert any(a is buffer for a in arrays(result))

    @precondition(lambda self: self.buffers)
    @rule(name=into, data=st.data())
    def in_place(self, name, data):
        """The gradient overwrites its input."""
        kind, buffer = data.draw(st.sampled_from(self.buffers))
        place = over(name)
        buffer[...] = getattr(given(*kind), place)
        self.fill(name, kind, given(*kind)._replace(**{place: buffer}), buffer)

    @precondition(lambda self: self.buffers)
    @rule(name=into, data=st.data())
    def from_buffer_to_buffer(self, name, data):
        """The input is in one buffer, the gradient goes to another; the first does not change."""
        kind, source = data.draw(st.sampled_from(self.buffers))
        others = [b for k, b in self.buffers if k == kind and b is not source]
        place = over(name)
        source[...] = getattr(given(*kind), place)
        self.keep(source)
        out = data.draw(st.sampled_from([None, *others]))
        self.fill(name, kind, given(*kind)._replace(**{place: source}), out)

    @rule(kind=kinds, steps=st.integers(1, 3), data=st.data())
    def accumulate(self, kind, steps, data):
        """The sums of a linear map's gradients, step by step in the same buffers."""
        g, fresh = given(*kind), None
        grads = fx.LinearGrad(np.zeros_like(g.features), np.zeros_like(g.matrix), None)
        for _ in range(steps):
            before = fx.LinearGrad(grads.x.copy(), grads.linear_weight.copy(), None)
            options = {"reduction": "sum", "accumulate": True}
            with fx.num_threads(1):
                fresh = fx.linear_cross_entropy(
                    *map(np.copy, (g.features, g.matrix, g.labels)), grad_out=before, **options
                )
            result = fx.linear_cross_entropy(
                g.features, g.matrix, g.labels, grad_out=grads, **options
            )
            assert [bits(a) for a in arrays(result)] == [bits(a) for a in arrays(fresh)]
        self.hold(grads)

    # ---- refusals: the invariant looks at the buffers afterwards -------------------------------

    @precondition(lambda self: self.buffers)
    @rule(data=st.data(), bad=st.sampled_from([-1, 10**6]), linear=st.booleans())
    def bad_label(self, data, bad, linear):
        kind, buffer = data.draw(st.sampled_from(self.buffers))
        g = given(*kind)
        labels = g.labels.copy()
        labels[data.draw(st.integers(0, len(labels) - 1))] = bad
        name = data.draw(st.sampled_from(["plain", "all", "categorical", "product"]))
        with pytest.raises(IndexError, match="target"):
            CALLS[name](g._replace(labels=labels), buffer)

    @precondition(lambda self: self.buffers)
    @rule(data=st.data(), name=into)
    def overlapping(self, data, name):
        kind, buffer = data.draw(st.sampled_from(self.buffers))
        g, place = given(*kind), over(name)
        short = Given(*(array[1:] for array in g[:4]), *g[4:])
        with pytest.raises(ValueError, match="must not overlap"):
            CALLS[name](short._replace(**{place: buffer[1:]}), buffer[:-1])

    # ---- threads -------------------------------------------------------------------------------

    @rule(n=few)
    def set_threads(self, n):
        fx.set_num_threads(n)
        self.outside = n
        if not self.scopes:
            self.threads = n

    @rule(n=few)
    def enter(self, n):
        scope = fx.num_threads(n)
        scope.__enter__()
        self.scopes.append((scope, n))
        self.threads = n

    @precondition(lambda self: self.scopes)
    @rule(raising=st.booleans())
    def leave(self, raising):
        """Leave the innermost context, at its end or by an exception."""
        scope, _ = self.scopes.pop()
        if raising:
            error = KeyError("on the way")
            assert not scope.__exit__(KeyError, error, None)
        else:
            scope.__exit__(None, None, None)
        self.threads = self.scopes[-1][1] if self.scopes else self.outside

    @rule(bad=st.sampled_from([0, -1, 1.5, True, None]))
    def no_number_of_threads(self, bad):
        for change in (fx.set_num_threads, fx.num_threads):
            with pytest.raises((TypeError, ValueError), match="n must be"):
                change(bad)

    @rule(calls=st.lists(st.tuples(names, kinds, few), min_size=1, max_size=3), mine=names,
          kind=kinds)  # fmt: skip
    def at_once(self, calls, mine, kind):
        """Concurrent calls of several threads, each with its own inputs."""
        outside, errors = self.outside, []
        results = [None] * len(calls)  # in their order: what is drawn later depends on it

        def other(k, name, kind, n):
            try:
                assert fx.get_num_threads() == outside
                with fx.num_threads(n):
                    result = CALLS[name](given(*kind), None)
                    assert fx.get_num_threads() == n
                check(name, kind, result)
                results[k] = result
            except BaseException as error:
                errors.append(error)

        for name, other_kind, _ in (*calls, (mine, kind, 1)):
            alone(name, other_kind)  # not made by several threads
        at_work = [threading.Thread(target=other, args=(k, *call)) for k, call in enumerate(calls)]
        for thread in at_work:
            thread.start()
        result = CALLS[mine](given(*kind), None)
        for thread in at_work:
            thread.join()
        assert not errors, errors
        check(mine, kind, result)
        self.hold((result, *results))

    @rule(name=names, kind=kinds, busy=st.booleans())
    def fork(self, name, kind, busy):
        """A forked child computes, perhaps forked while another thread is in a call."""
        alone(name, kind)
        thread = threading.Thread(target=CALLS["plain"], args=(given((1500, 400), "f4"), None))
        if busy:
            thread.start()
        with warnings.catch_warnings():
            # Python 3.12 and later warn of any fork in a process of several threads, as JAX does.
            warnings.simplefilter("ignore")
            child = os.fork()
        if not child:
            status = 1
            try:
                assert fx.get_num_threads() == self.threads
                check(name, kind, CALLS[name](given(*kind), None))
                self.untouched()
                status = 0
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            os._exit(status)
        assert _ended(child) == 0, "a child's result, or its end"
        if busy:
            thread.join()

    # ---- what is no longer needed --------------------------------------------------------------

    @precondition(lambda self: self.results)
    @rule(data=st.data())
    def drop(self, data):
        """Drop a result, perhaps keeping a view of it."""
        array = self.results.pop(data.draw(st.integers(0, len(self.results) - 1)))
        del self.expected[id(array)]
        if array.ndim and data.draw(st.booleans()):
            self.hold(array[1:])
        del array
        gc.collect(1)

    @precondition(lambda self: self.buffers)
    @rule(data=st.data())
    def drop_buffer(self, data):
        """Drop a buffer; its contents are no longer checked."""
        _, buffer = self.buffers.pop(data.draw(st.integers(0, len(self.buffers) - 1)))
        del self.expected[id(buffer)]

    # ---- what holds after each step ------------------------------------------------------------

    @invariant()
    def untouched(self):
        for array in (*self.results, *(buffer for _, buffer in self.buffers)):
            assert bits(array) == self.expected[id(array)], "an array was written to"

    @invariant()
    def number_of_threads(self):
        assert fx.get_num_threads() == self.threads

    def teardown(self):
        while self.scopes:
            self.scopes.pop()[0].__exit__(None, None, None)
        threads._explicit = self.found
        Machine.tried += 1


def _ended(child):
    """A child's exit status; one that does not end is killed."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_sequences(effort, count):
    """Calls, buffers, threads and forks in any order: results equal those of isolated calls."""
    Machine.tried = 0
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=effort(20, 60), stateful_step_count=STEPS, deadline=None,
            derandomize=True, database=None,
            phases=[Phase.generate],  # what hangs in a child would be shrunk for very long
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    count("stateful", Machine.tried, Machine.tried)
