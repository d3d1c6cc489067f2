"""In which order and for how long the GPU's benchmark measures; its record at every moment."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu_parts import BENCH

from fastxent.bench import record


def new_session(part, file, minutes=None):
    return part("session").Session({"results": [], "steps": []}, file, minutes)


def step(part, label, rows=(), group="check", **compiled):
    return part("steps").Step(label, group, lambda: list(rows), **compiled)


def test_the_order_is_that_of_worth(script, part):
    """Right at a dozen shapes, then speed at four lengths, Python's part, plans; then the rest."""
    args = script.options(["--dry", "--out", "x"])
    labels = [step.label for step in part("steps").steps(args, script.Dry())]
    assert len(set(labels)) == len(labels) > 200
    groups = [label.split()[0] for label in labels]
    assert groups[:24] == ["check"] * 24 and groups[24:40] == ["race"] * 16
    assert groups[40:50] == ["ceiling", "launch", *["plans"] * 8]
    assert len({tuple(label.split()[2:]) for label in labels[:24]}) == 12  # shapes and types
    raced = [label.split()[1:] for label in labels[24:40]]
    assert {job for job, *_ in raced} == {"cross_entropy", "softmax"}
    classes = {int(shape.split("x")[1]) for _, shape, _ in raced}
    assert classes == {1024, 4096, 32768, 128256}
    rest = labels[50:]
    for job in ("soft_targets", "smoothing", "probs", "entropy", "hvp"):
        for c in (32768, 128256, 262144):
            places = [
                k for k, label in enumerate(rest) if f" {job} " in label and f"x{c} " in label
            ]
            assert [rest[k].split()[0] for k in places] == ["check", "check", "race", "race"]
    images = [label for label in rest if "in images" in label and "race cross_entropy" in label]
    assert [label.split("x")[1].split()[0] for label in images[::2]] == ["21", "150", "1000"]


def test_costs_are_those_of_the_steps_before(part):
    """Of a kernel, of a graph, and of the rest of a group; guesses before there are any."""
    costs = part("costs").Costs()
    check, race = step(part, "a", kernels=2), step(part, "b", group="race", graphs=1)
    assert costs.estimate(check) > 5 and costs.estimate(race) > 10
    costs.learn(check, [{"peer": "fastxent", "first_s": 6.0}], 7.0)
    assert costs.estimate(check) == 7
    assert costs.estimate(step(part, "c", kernels=4)) == 13
    rows = [{"peer": "fastxent", "first_s": 0.5}, {"peer": "torch_compile", "first_s": 20.0}]
    costs.learn(race, rows, 23.0)
    assert costs.estimate(race) == 23
    assert costs.estimate(step(part, "d", group="race")) == 3
    costs.learn(race, rows, 25.0)
    assert costs.estimate(race) == 24


def test_what_does_not_fit_is_skipped_and_named(part, tmp_path):
    """A cheaper step after it is done; all of it stands in the record and in the table."""
    file = tmp_path / "run.json"
    session = new_session(part, file, minutes=0.5)
    gpu = SimpleNamespace(free=lambda: None, wait=lambda: None)
    long, short = step(part, "long", kernels=1000), step(part, "short", [{"group": "x"}])
    session.all([long, short], gpu)
    run = record.load(file)
    states = {entry["step"]: entry["state"] for entry in run["steps"]}
    assert states == {"long": "skipped", "short": "done"} and run["results"] == [{"group": "x"}]
    (line,) = [line for line in part("report").table(run) if "long" in line]
    assert line.startswith("skipped for want of time: long (about 300")
    again = part("session").Session(run, file)
    again.all([long, short], gpu)  # with time it is done, and the other not again
    states = [(entry["step"], entry["state"]) for entry in record.load(file)["steps"]]
    assert states == [("short", "done"), ("long", "done")]
    assert len(record.load(file)["results"]) == 1


HANGING = """
import ctypes, sys, time
sys.path.insert(0, {bench!r})
import gpu
from gpu_bench import costs
from gpu_bench.steps import Step

costs.REST = 0.0  # so that there is time on a machine that has other work

def hang():
    print("hanging", flush=True)
    {hang}

quick = Step("quick", "check", lambda: [{{"group": "check", "peer": "a", "right": True}}])
gpu.steps = lambda args, gpu: [quick, Step("hanging", "check", hang), quick._replace(label="late")]
print(time.monotonic(), flush=True)
gpu.main(["--dry", "--out", {out!r}, "--minutes", "0.2"])
"""


@pytest.mark.parametrize(
    ("hang", "status"),
    [("time.sleep(600)", 3), ("ctypes.PyDLL(None).sleep(600)", 1)],
    ids=["lock free", "lock held"],
)
def test_nothing_outlives_the_limit(part, tmp_path, hang, status):
    """A call that does not return ends with the process, and what there was is on disk."""
    file = tmp_path / "run.json"
    text = HANGING.format(bench=str(BENCH), out=str(file), hang=hang)
    command = [sys.executable, "-c", textwrap.dedent(text)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    end = time.monotonic()
    assert done.returncode == status, done.stderr
    begin, said, *table = done.stdout.splitlines()
    assert said == "hanging"
    assert end - float(begin) < 60 * 0.2 + 8  # a few seconds, on a machine that has other work
    run = record.load(file)
    assert [(entry["step"], entry["state"]) for entry in run["steps"]] == [
        ("quick", "done"), ("hanging", "running")
    ]  # fmt: skip
    assert [row["peer"] for row in run["results"]] == ["a"]
    if status == 3:
        assert "unfinished: hanging" in table
    else:
        assert "in hang" in done.stderr  # where it was


def test_the_record_is_whole_at_every_moment(script, part, tmp_path, monkeypatch):
    """As a reader sees it that looks all the time, and after a write that broke off."""
    file, seen, over = tmp_path / "run.json", [], threading.Event()

    def read():
        while not over.is_set():
            if file.exists():
                seen.append(len(json.loads(file.read_text())["results"]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        options = ["--shapes", "64", "--dtypes", "float32", "--peers"]
        assert script.main(["--dry", "--out", str(file), *options]) == 0
    finally:
        over.set()
        reader.join()
    assert seen == sorted(seen) and len(set(seen)) > 3
    run, write = record.load(file), Path.write_text

    def half(path, text):
        write(path, text[: len(text) // 2])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space"):
        record.save(run | {"results": []}, file)
    assert record.load(file) == run
