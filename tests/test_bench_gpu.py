"""The GPU's benchmark without a GPU: its bookkeeping, with a driver that does nothing."""

import importlib
import importlib.util
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from gpu_parts import BENCH

from fastxent.bench import answers, record
from fastxent.bench.layouts import as_rows

# --- what is measured -----------------------------------------------------------------------


def test_a_dry_run_writes_every_group(script, part, tmp_path, capsys):
    """Each side of each race, each plan, what Python costs; nothing else stops at a failure."""
    from fastxent.cuda import driver

    file, call = tmp_path / "dry.json", driver.LaunchedKernel
    assert script.main(["--dry", "--out", str(file), "--shapes", "64", "3x4100"]) == 0
    assert driver.LaunchedKernel is call
    run = record.load(file)
    assert run["dry"] and run["launches"] > 100 and run["versions"]["numba-cuda"]
    assert {entry["state"] for entry in run["steps"]} == {"done"}
    groups = {"check", "race", "plans", "ceiling", "launch", "host"}
    assert {row["group"] for row in run["results"]} == groups
    raced = [row for row in run["results"] if row["group"] == "race"]
    assert {row["job"] for row in raced} == set(part("cases").ARRAYS)
    for row in raced:
        if row["peer"].startswith("torch"):
            assert row["note"] == "RuntimeError: a dry run has no PyTorch"
        else:
            assert row["q25"] <= row["median"] <= row["q75"] and row["share_of_copy"] > 0
            assert row["first_s"] > 0
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_side_has_the_same_answer(part, dtype):
    """On tensors of the CPU: what is compared and timed is the job, in rows and in images."""
    torch = pytest.importorskip("torch")

    class OnTheCpu(part("devices").Gpu):
        device, l2, processors = "cpu", 1000, 8

        def __init__(self):
            self.torch = torch

        def wait(self):
            pass

        def seconds(self, call):
            call()
            return 1e-3

        def extra_bytes(self, call):
            return 0

    cases, checks, gpu = part("cases"), part("checks"), OnTheCpu()
    for shape in (cases.Shape(5, 300), cases.Shape(32, 7, 4)):
        for job in cases.ARRAYS:
            rows = checks.check(gpu, shape, dtype, job)
            assert all(row["right"] for row in rows), rows
            arrays = part("arrays").Arrays(gpu, shape, dtype, job)
            exact = tuple(map(as_rows, map(np.asarray, checks.exact_answer(gpu, arrays, job))))
            theirs = part("torch_sides").torch_call(arrays, job, False)(0)
            parts = theirs if isinstance(theirs, tuple) else (theirs,)
            assert len(parts) == len(exact)
            error = answers.error(tuple(as_rows(gpu.host(one)) for one in parts), exact)
            assert error < {"float32": 1e-4, "bfloat16": 5e-2}[dtype], job
            raced = part("races").race(gpu, shape, dtype, job, ["torch"], 2)
            assert {row["peer"] for row in raced} >= {"copy", "fastxent", "torch"}
            assert not any("note" in row for row in raced), raced


def test_bytes_are_those_that_must_move(part):
    """Logits once in, gradients once out, a label and a loss a row; a copy of as many."""
    cases = part("cases")

    def moved(job, dtype, peer="fastxent", shape=(10, 100)):
        return cases.bytes_moved(job, peer, cases.Shape(*shape), dtype)

    assert moved("cross_entropy", "bfloat16") == 4000 + 120
    assert moved("softmax", "float32") == 8000
    assert moved("loss", "float32") == 4000 + 120
    assert moved("loss", "float32", "copy") == 4000
    assert moved("hvp", "float32") == 12000 + 80
    assert moved("soft_targets", "float32") == 12000 + 40
    assert moved("cross_entropy", "float32", "copy", (32, 7, 4)) == 2 * 32 * 7 * 4


def test_shapes_fill_a_gigabyte(part):
    """Rows that are named stay; of images they are whole ones, small where times mean nothing."""
    cases = part("cases")
    shape = cases.filled(cases.Shape(0, 1000), "bfloat16", 1 << 30, False)
    assert shape == (536870, 1000, 0) and shape.logits == (536870, 1000)
    assert cases.filled(cases.Shape(7, 1000), "float32", 1 << 30, False) == (7, 1000, 0)
    image = cases.filled(cases.Shape(0, 21, 256), "float32", 1 << 30, False)
    assert image.logits == (195, 21, 256, 256) and image.labels == (195, 256, 256)
    assert image.rows == 195 * 256**2 and image.options == {"axis": 1}
    assert cases.filled(cases.Shape(0, 21, 256), "float32", 100, True).logits == (1, 21, 16, 16)


# --- kernels --------------------------------------------------------------------------------


def collected(part, *arguments):
    """The kernels of a dry run of the steps."""
    script = importlib.import_module("gpu")
    args = script.options(["--dry", "--out", "x", "--peers", *arguments])
    args.capability = (9, 0)
    return importlib.import_module("gpu_kernels").kernels_of(args)


def test_kernels_are_those_of_the_type_and_of_the_plans(part):
    """In the order in which they are needed; bfloat16 is not taken for another type."""
    names = [kernel.name for kernel in collected(part, "--shapes", "40000", "--dtypes", "bfloat16")]
    assert len(set(names)) == len(names)
    assert not any("float16" in name.replace("bfloat16", "") for name in names)
    (first,) = [k for k, name in enumerate(names) if name.startswith("softmax-bfloat16")]
    (later,) = [k for k, name in enumerate(names) if name.startswith("hvp-bfloat16")]
    assert first < later
    clustered = [name for name in names if name.startswith("cluster_rows-bfloat16")]
    assert clustered[0] == "cluster_rows-bfloat16-ThreadPlan(512,8,1,True,False,1,False,2)"
    assert names.index(clustered[0]) < first and len(clustered) > 4  # each plan that is tried
    assert not any(name.startswith("split") for name in names)
    names = [kernel.name for kernel in collected(part, "--shapes", "2x40000")]
    assert any(name.startswith("split_rows-bfloat16") for name in names)


def test_the_kernel_that_is_checked_is_the_one_that_is_timed(part, script):
    """Where few long rows are computed by other kernels than many; those are checked, too."""
    seen = {}
    for group in ("check", "race"):
        for shape in ("300x40000", "40000", "2x40000", "128256", "1x128256"):
            args = script.options(["--dry", "--out", "x", "--shapes", shape])
            gpu = script.Dry()
            with gpu.driver():
                steps = part("steps").steps(args, gpu)
                for step in steps:
                    if step.label.startswith(f"{group} cross_entropy"):
                        step.call()
            seen.setdefault(shape, []).append(set(gpu.kernels))
    for shape, (checked, timed) in seen.items():
        assert checked == timed, shape
    assert seen["40000"] != seen["2x40000"]


def test_kernels_compiled_ahead_are_in_the_cache(part, tmp_path):
    """As the package itself looks for them; one that fails does not stop the others."""
    text = f"""
    import sys
    sys.path.insert(0, {str(BENCH)!r})
    import gpu, gpu_kernels
    from fastxent.cuda import jit
    args = gpu.options(["--dry", "--out", "x", "--peers", "--shapes", "64"])
    args.capability = (9, 0)
    two = gpu_kernels.kernels_of(args)[:2]
    bad = two[0]._replace(name="bad", signature=None)
    for name in gpu_kernels.compile_all([bad, *two], (9, 0), 2):
        print(name)
    jit.ptx = None
    for kernel in two:
        assert jit.machine_code(kernel, (9, 0))[1][:4] == b"\x7fELF"
    """
    environment = os.environ | {"FASTXENT_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(text)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first.startswith("failed: bad: ") and len(others) == 2
    assert not any(name.startswith("failed") for name in others)


# --- what goes wrong ------------------------------------------------------------------------


@pytest.fixture
def gpu(script, monkeypatch):
    """A stand-in that is taken for a GPU."""

    class Gpu(script.Dry):
        pass

    made = Gpu()
    monkeypatch.setattr(script, "Gpu", lambda: made)
    with made.driver():
        yield made


OPTIONS = ["--shapes", "3x64", "--quick", "--dtypes", "float32", "--peers"]


def test_a_wrong_answer_is_the_exit_status(script, part, gpu, tmp_path, monkeypatch):
    """Outside of a dry run; and a step that breaks is written down as wrong, and not the last."""
    monkeypatch.setattr(part("steps"), "ceiling", lambda *_: 1 / 0)
    file = tmp_path / "wrong.json"
    assert script.main(["--out", str(file), *OPTIONS]) == 1
    rows = record.load(file)["results"]
    assert [row["note"] for row in rows if row["group"] == "step"] == [
        "ZeroDivisionError: division by zero"
    ]
    assert rows[-1]["group"] == "race"


def test_a_broken_gpu_ends_the_process_and_another_goes_on(
    script, part, gpu, tmp_path, monkeypatch
):
    """Whose calls all fail after an access outside of an array: the next step has a new process."""
    file, broken = tmp_path / "run.json", []

    def ceiling(*_):
        broken.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def wait():
        if broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(part("steps"), "ceiling", ceiling)
    monkeypatch.setattr(gpu, "wait", wait)
    assert script.main(["--out", str(file), *OPTIONS]) == 4
    first = record.load(file)
    assert first["steps"][-1]["step"] == "ceiling" and first["results"][-1]["right"] is False
    broken.clear()
    assert script.main(["--out", str(file), "--resume", *OPTIONS]) == 1
    run = record.load(file)
    assert run["steps"][: len(first["steps"])] == first["steps"]
    assert run["results"][: len(first["results"])] == first["results"]
    labels = [entry["step"] for entry in run["steps"]]
    assert labels.count("ceiling") == 1 and "launch" in labels and len(set(labels)) == len(labels)


def test_a_machine_without_a_gpu_leaves_a_record(script, tmp_path, monkeypatch):
    """That says why there is nothing in it."""
    monkeypatch.setattr(script, "Gpu", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        script.main(["--out", str(tmp_path / "run.json"), "--minutes", "5"])
    assert record.load(tmp_path / "run.json")["failed"] == "ZeroDivisionError: division by zero"
