"""Times of fastxent to compare with earlier ones, to find what became slower.

`pytest bench/test_speed.py --benchmark-autosave --benchmark-compare`
"""

import pytest

from fastxent.bench import inputs
from fastxent.bench.cases import Case
from fastxent.bench.peers import fastxent_out

CASES = [
    Case(32, 10),
    Case(65536, 10),
    Case(16384, 100),
    Case(8192, 1000),
    Case(1024, 32000),
    Case(8192, 1000, "float64"),
    Case(8192, 1000, logits="confident"),
    Case(8192, 1000, target="soft"),
    Case(65536, 21, layout="channels-first", image=256),
    Case(8192, 1000, layout="column-major"),
    Case(8192, 1000, job="softmax"),
    Case(1_000_000, 1, job="binary"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_speed(benchmark, case):
    call = getattr(fastxent_out, case.job)(*inputs.make(case))
    benchmark.pedantic(
        call, rounds=20, iterations=1 if case.size > 10_000 else 100, warmup_rounds=2
    )
