"""Calls while another thread rewrites their labels; prints their number and outcomes.

Run by test_memory_safety.py in a process of its own: `rewritten.py CALLS`.
"""

import functools
import json
import os
import sys
import threading
import time

import fence
import numpy as np

import fastxent as fx

N = 4096
WILD = [-1, 2**40, -(2**62), 2**63 - 1]


def main(calls):
    """Change labels of odd rows only; the results of even rows must not change."""
    rng = np.random.default_rng(0)
    fence.install()
    endings = {"refused": 0, "changed in between": 0, "undisturbed": 0}
    for c, name, options in [
        (5, "cross_entropy", {}),
        (5, "cross_entropy", {"label_smoothing": 0.1}),
        (5, "cross_entropy", {"weight": np.ones(5)}),
        (500, "cross_entropy", {}),
        (70, "cross_entropy", {"return_hess": True}),
        (70, "categorical_cross_entropy", {}),
        (5, "cross_entropy_hvp", {}),
        (5, "cross_entropy_hvp", {"weight": np.ones(5)}),
        (500, "cross_entropy_hvp", {}),
    ]:
        x = rng.random((N, c), dtype=np.float32)
        function = functools.partial(derivative, getattr(fx, name), x)
        # One class too many is the next row's memory.
        for wild in [*WILD, c]:
            attack(function, x, rng.integers(0, c, N), options, wild, calls // 45, endings)
    assert endings["changed in between"], endings
    print(json.dumps(endings), flush=True)
    os._exit(0)


def derivative(function, x, labels, out, **options):
    """The gradient, or the product with x."""
    if function is fx.cross_entropy_hvp:
        return function(x, labels, x, out=out, **options)
    return function(x, labels, grad_out=out, **options)[1]


def attack(function, x, labels, options, wild, calls, endings):
    """Calls whose labels are sometimes far out of range."""
    options = dict(options, reduction="sum")
    want = function(labels, np.empty_like(x), **options)
    good, grad, over = labels[1::2].copy(), np.empty_like(x), threading.Event()

    def rewrite():
        while not over.is_set():
            labels[1::2] = wild
            labels[1::2] = good
            time.sleep(1e-4)

    thread = threading.Thread(target=rewrite)
    thread.start()
    seen, limit = False, time.monotonic() + 3
    try:
        # On a busy machine the other thread may come late.
        while calls > 0 or not seen and time.monotonic() < limit:
            calls -= 1
            grad.fill(7)
            try:
                function(labels, grad, **options)
            except IndexError:
                assert (grad == 7).all(), "written before the error"
                endings["refused"] += 1
            else:
                assert (grad[::2] == want[::2]).all(), "a wild label changed another row"
                changed = bool((grad[1::2] != want[1::2]).any())
                endings["changed in between" if changed else "undisturbed"] += 1
                seen |= changed
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]))
