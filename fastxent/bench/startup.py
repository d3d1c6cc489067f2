"""Time of import and first call in a fresh process, with a warm and with an empty cache."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_CALL = "import fastxent; fastxent.cross_entropy([[1.0, 2.0]], [1], return_grad=True)"
# The code timed in each process, and whether its kernels are in the cache.
SIDES = {
    "import numba": ("import numba", True),
    "import fastxent": ("import fastxent", True),
    "first call, warm cache": (_CALL, True),
    "first call, empty cache": (_CALL, False),
}
_TIMED = """\
import time
begin = time.perf_counter()
{}
print(time.perf_counter() - begin)
"""


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of each side by round; the sides take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory(prefix="fastxent-bench-") as root:
        warm = Path(root) / "warm"
        _run(_CALL, warm)
        for k in range(rounds):
            for name, (code, cached) in SIDES.items():
                seconds[name].append(_run(code, warm if cached else Path(root) / str(k)))
    return seconds


def _run(code: str, cache: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(code)],
        env={**os.environ, "FASTXENT_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)
