"""The measured table of docs/gpu.md: of the last record in the repository, empty without any."""

import importlib
import shutil
from pathlib import Path

import pytest

from fastxent.bench import record

ROOT = Path(__file__).parent.parent


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("gpu_page")


@pytest.fixture
def copy(tmp_path):
    """A copy of the page, which is what a test may write to."""
    return Path(shutil.copy(ROOT / "docs" / "gpu.md", tmp_path / "gpu.md"))


def row(job="cross_entropy", group="race", peer="fastxent", rows=8192, classes=32768, **fields):
    shape = {"rows": rows, "classes": classes, "dtype": "float32"}
    return {"group": group, "peer": peer, "job": job} | shape | fields


def a_run(*results, **fields):
    """A record with invented numbers, for these tests alone."""
    return {
        "date": "2026-01-02T03:04:05+00:00", "fastxent": "0.0", "commit": "0123456789abc",
        "dirty": False, "dry": False, "gpu": {"name": "a card"}, "steps": [],
        "versions": {"torch": "9.9", "numba-cuda": "8.8"}, "results": list(results),
    } | fields  # fmt: skip


def test_the_table_is_of_the_last_record(page, copy):
    """Written anew the page is what it is; without a run on a GPU it shows no figures."""
    files = sorted((ROOT / "bench" / "results" / "gpu").glob("*.json"))
    last = max(files, key=lambda path: record.load(path)["date"], default=None)
    page.main([str(last)] if last else [], page=copy)
    assert copy.read_text() == (ROOT / "docs" / "gpu.md").read_text()


def test_a_line_for_each_job_and_length(page):
    """In the order of the jobs; few rows are left out, and images are told apart."""
    ratios = {"ratios": {"copy": 1.0, "torch": 3.456, "torch_compile": 0.5}}
    run = a_run(
        row("softmax", classes=4096, share_of_copy=0.5, ratios={}),
        row(share_of_copy=0.876, **ratios),
        row(share_of_copy=0.9, **ratios | {"dtype": "bfloat16"}),
        row(rows=16, share_of_copy=0.1, ratios={}),
        row(classes=1024, note="OutOfMemoryError"),
        row(classes=21, image=256, share_of_copy=0.2, ratios={}),
        row(group="plans", peer="4x8"), row(peer="torch"),
        {"group": "ceiling", "peer": "copy", "gb_per_s": 1234.0},
    )  # fmt: skip
    none = ("–",) * 2
    assert page.lines(run) == [
        ("loss + gradient", "1,024", *none, *none, *none),
        ("loss + gradient", "32,768", "88%", "90%", "**0.50**", "**0.50**", "3.46", "3.46"),
        ("loss + gradient, images of 256×256", "21", "20%", "–", *none, *none),
        ("softmax", "4,096", "50%", "–", *none, *none),
    ]
    text = page.measured(run)
    assert "a card on 2026-01-02, with PyTorch 9.9, numba-cuda 8.8; fastxent 0.0" in text
    assert "1234 GB/s" in text and "commit 012345678." in text
    assert "012345678, changed." in page.measured(run | {"dirty": True})


def test_wrong_answers_have_no_figures(page):
    """Of the job, the length and the type that were wrong; the others keep theirs."""
    good = row(share_of_copy=0.5, ratios={})
    check = row(group="check", rows=5, right=False)
    others = good | {"dtype": "bfloat16"}, row("softmax", group="check", right=True)
    line = ("loss + gradient", "32,768", "wrong", "50%", *["wrong", "–"] * 2)
    assert page.lines(a_run(good, check, *others)) == [line]
    image = a_run(good | {"image": 32}, check | {"image": 4})
    assert page.lines(image)[0][2] == "wrong"
    assert page.lines(a_run(good | {"image": 32}, check))[0][2] == "50%"


def test_a_dry_run_is_refused(page, copy, tmp_path, capsys):
    """The page stays as it was."""
    before, file = copy.read_text(), tmp_path / "dry.json"
    record.save(a_run(row(share_of_copy=0.5, ratios={}), dry=True), file)
    with pytest.raises(SystemExit):
        page.main([str(file)], page=copy)
    assert copy.read_text() == before and "means nothing" not in before
    assert "dry run" in capsys.readouterr().err


def test_a_record_of_the_benchmark_is_what_the_page_reads(page, copy, tmp_path, monkeypatch):
    """A dry run's, for once taken for another: every line of the schedule finds its place."""
    pytest.importorskip("numba_cuda")
    file = tmp_path / "run.json"
    importlib.import_module("gpu").main(["--dry", "--out", str(file)])
    run = record.load(file)
    for result in run["results"]:
        result["right"] = True
    record.save(run | {"dry": False}, file)
    page.main([str(file)], page=copy)
    text = copy.read_text()
    measured = text.partition(page.MARK)[2].partition("<!-- end -->")[0]
    assert {name for name in page.NAMES.values() if f"| {name} | " in measured} == {
        *page.NAMES.values()
    }
    for classes in ("262,144", "128,256", "1,024"):
        assert measured.count(f"| {classes} | ") >= 3
    for c in (21, 150, 1000):
        assert f"images of 16×16 | {c:,} | " in measured
    assert "wrong" not in measured
    rest = (ROOT / "docs" / "gpu.md").read_text().partition(page.MARK)
    assert text.startswith(rest[0]) and text.endswith(rest[2].partition("<!-- end -->")[2])
