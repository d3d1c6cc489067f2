"""fastxent beside other implementations: `pytest bench` shows a table for each case.

The answer of each is checked before it is timed. All of them run in this process, with their own
threads; `python -m fastxent bench` gives each a process and the same number of threads.
"""

import functools

import pytest

from fastxent.bench import answers, inputs
from fastxent.bench.cases import GROUPS
from fastxent.bench.peers import PEERS
from fastxent.bench.serve import checked_call

COMPARED = ("table", "layouts", "half", "second", "categorical", "binary_few")
LARGEST = 10_000_000  # logits: larger cases take minutes
HEATS = sorted(
    (
        [entry for entry in heat if entry.case == heat[0].case and PEERS[entry.peer].computes]
        for group in COMPARED
        for heat in GROUPS[group].heats
        if heat[0].case.size <= LARGEST and (group, heat[0].case.dtype) != ("table", "float64")
    ),
    key=lambda heat: heat[0].case.size,
)


def side(entry, group):
    """The parameters of a test; a peer that is not installed is skipped."""
    missing = PEERS[entry.peer].missing()
    skip = pytest.mark.skipif(bool(missing), reason=f"needs {missing}")
    return pytest.param(entry, group, id=f"{entry.peer}-{entry.case}", marks=skip)


# Tables are sorted by the names of groups: by numbers, small shapes are first.
SIDES = [
    side(entry, f"{number:02d} {heat[0].case}")
    for number, heat in enumerate(heat for heat in HEATS if len(heat) > 1)
    for entry in heat
]


@functools.lru_cache(maxsize=1)
def problem(case):
    """The arrays of a case and the exact answer, kept while its peers are timed."""
    arrays = inputs.make(case)
    return arrays, answers.expected(case, arrays)


@pytest.mark.filterwarnings("default")  # of other libraries
@pytest.mark.parametrize("entry, group", SIDES)
def test_peer(benchmark, entry, group):
    call, _ = checked_call(entry.peer, entry.case, *problem(entry.case))
    benchmark.group = group
    iterations = 1 if entry.case.size > 10_000 else 100
    benchmark.pedantic(call, rounds=10, iterations=iterations, warmup_rounds=2)
