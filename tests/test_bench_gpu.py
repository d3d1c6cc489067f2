"""The GPU's benchmark without a GPU: its bookkeeping, with a driver that does nothing."""

import importlib
import importlib.util
from pathlib import Path

import pytest

from fastxent.bench import record

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def script(monkeypatch):
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("needs numba-cuda")
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("gpu")


@pytest.fixture
def cases(script):
    return importlib.import_module("gpu_bench.cases")


def test_a_dry_run_writes_every_group(script, cases, tmp_path, capsys):
    """Each side of each race, each plan, what Python costs; nothing else stops at a failure."""
    from fastxent.cuda import driver

    file, call = tmp_path / "dry.json", driver.LaunchedKernel
    assert script.main(["--dry", "--out", str(file), "--shapes", "64", "3x4100"]) == 0
    assert driver.LaunchedKernel is call
    run = record.load(file)
    assert run["dry"] and run["launches"] > 100 and run["versions"]["numba-cuda"]
    groups = {"check", "race", "plans", "ceiling", "launch", "host"}
    assert {row["group"] for row in run["results"]} == groups
    raced = [row for row in run["results"] if row["group"] == "race"]
    assert {row["job"] for row in raced} == set(cases.ARRAYS)
    for row in raced:
        if row["peer"].startswith("torch"):
            assert row["note"] == "RuntimeError: a dry run has no PyTorch"
        else:
            assert row["q25"] <= row["median"] <= row["q75"] and row["share_of_copy"] > 0
    plans = [row for row in run["results"] if row["group"] == "plans"]
    heats = {(row["dtype"], row["classes"]) for row in plans}
    assert heats == {(dtype, c) for dtype in ("float32", "bfloat16") for c in (64, 4100)}
    for heat in heats:
        its = [row for row in plans if (row["dtype"], row["classes"]) == heat]
        assert len({row["peer"] for row in its}) == len(its)
        assert max(row["of_best"] for row in its) == 1 and sum(row["taken"] for row in its) == 1
    assert len(plans) > 2 * len(heats)
    printed = capsys.readouterr().out
    assert "fastxent_in_place, cross_entropy" in printed and "failed: check" in printed


def test_bytes_are_those_that_must_move(cases):
    """Logits once in, gradients once out, a label and a loss a row; a copy of as many."""
    assert cases.bytes_moved("cross_entropy", "fastxent", 10, 100, "bfloat16") == 4000 + 120
    assert cases.bytes_moved("softmax", "fastxent", 10, 100, "float32") == 8000
    assert cases.bytes_moved("loss", "fastxent", 10, 100, "float32") == 4000 + 120
    assert cases.bytes_moved("loss", "copy", 10, 100, "float32") == 4000


def test_a_wrong_answer_is_the_exit_status(script, tmp_path, monkeypatch):
    """Outside of a dry run; and a step that breaks is written down as wrong, and not the last."""

    class Gpu(script.Dry):
        pass

    dry = Gpu()
    monkeypatch.setattr(script, "Gpu", lambda: dry)
    monkeypatch.setattr(script, "ceiling", lambda *_: 1 / 0)
    file = tmp_path / "wrong.json"
    with dry.driver():
        options = ["--shapes", "3x64", "--quick", "--dtypes", "float32", "--peers"]
        assert script.main(["--out", str(file), *options]) == 1
    rows = record.load(file)["results"]
    assert [row["note"] for row in rows if row["group"] == "step"] == [
        "ZeroDivisionError: division by zero"
    ]
    assert rows[-1]["group"] == "plans"
