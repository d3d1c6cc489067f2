"""Time import, first call and warm-up in new processes, with a warm and with an empty cache."""

import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


class Side(NamedTuple):
    """The code to time, whether its kernels are in the cache, and the package it needs.

    With `once` it is timed in the first round only, because it takes long.
    """

    code: str
    cached: bool = True
    needs: str = ""
    once: bool = False


_CALL = "import fastxent; fastxent.cross_entropy([[1.0, 2.0]], [1], return_grad=True)"
_IN_JAX = """\
import jax
from fastxent.integrations.jax import cross_entropy
step = jax.jit(jax.value_and_grad(cross_entropy))
jax.block_until_ready(step(jax.numpy.array([[1.0, 2.0]]), jax.numpy.array([1])))"""
_WARMUP = 'import fastxent; fastxent.warmup("float32", functions="cross_entropy")'
BASE = {"import numba": Side("import numba")}
SIDES = {
    **BASE,
    "import fastxent": Side("import fastxent"),
    "first call, warm cache": Side(_CALL),
    "first call, empty cache": Side(_CALL, cached=False),
    "import jax": Side("import jax", needs="jax"),
    "first call in JAX, warm cache": Side(_IN_JAX, needs="jax"),
    "first call in JAX, empty cache": Side(_IN_JAX, cached=False, needs="jax"),
    "warm-up of cross_entropy in float32, empty cache": Side(_WARMUP, cached=False, once=True),
}
# Takes minutes, so it is measured only on request.
EVERYTHING = {
    "warm-up of everything, empty cache": Side(
        "import fastxent; fastxent.warmup()", cached=False, once=True
    ),
}
_TIMED = """\
import time
begin = time.perf_counter()
{}
print(time.perf_counter() - begin)
"""


def measure(rounds: int, sides: dict[str, Side]) -> dict[str, list[float]]:
    """Measure the seconds of each side by round; the sides take turns.

    Sides whose package is not installed are omitted.
    """
    present = {
        name: side for name, side in sides.items()
        if not side.needs or importlib.util.find_spec(side.needs)
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in present}
    empty = itertools.count()
    with tempfile.TemporaryDirectory(prefix="fastxent-bench-") as root:
        warm = Path(root) / "warm"
        for code in {side.code: None for side in present.values() if side.cached}:
            _run(code, warm)
        for k in range(rounds):
            for name, side in present.items():
                if not (k and side.once):
                    cache = warm if side.cached else Path(root) / str(next(empty))
                    seconds[name].append(_run(side.code, cache))
    return seconds


def _run(code: str, cache: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(code)],
        env={**os.environ, "FASTXENT_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)
