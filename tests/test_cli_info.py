"""`info`: what it tells is so, in a terminal, in a pipe and as JSON."""

import importlib.metadata
import json
import os
import platform
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scripts import python

import fastxent as fx
from fastxent import cli, kernel_files
from fastxent.cli import info, machine
from fastxent.cpu import target, threads

MAIN = "import sys; from fastxent import cli; sys.exit(cli.main(sys.argv[1:]))"
OPTIONAL = ("rich", "scipy", "sklearn", "torch", "jax", "matplotlib", "ml_dtypes", "numba_cuda")


@pytest.fixture
def found(monkeypatch, capsys):
    """The document of `info --json` where OMP_NUM_THREADS alone says something of threads."""
    for name in ("FASTXENT_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(threads, "_cached_default", (0, 0, ""))
    assert cli.main(["info", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_json(found):
    assert found["fastxent"] == fx.__version__
    assert found["python"].startswith(platform.python_version())
    assert found["libraries"]["numpy"] == np.__version__
    for name, version in found["libraries"].items():
        assert importlib.metadata.version(name) == version
    assert found["threads"]["used"] == 1 and found["threads"]["source"] == "OMP_NUM_THREADS"
    limits = {limit["source"]: limit["threads"] for limit in found["threads"]["limits"]}
    assert limits["OMP_NUM_THREADS"] == 1 and len(limits) >= 2
    assert found["cpu"]["vector_bytes"] == 64 and found["cpu"]["cpus"] == os.cpu_count()
    assert found["cache"]["path"] == os.environ["FASTXENT_CACHE_DIR"]
    assert found["cache"]["variable"] == "FASTXENT_CACHE_DIR"
    assert found["cuda"]["devices"] or found["cuda"]["missing"]


def test_libraries_are_named_and_not_imported():
    """Neither are those that only commands use."""
    heavy = "{'sklearn', 'torch', 'jax', 'matplotlib', 'cupy', 'dask', 'rich'}"
    script = f"""
        import contextlib, io, sys
        from fastxent import cli
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main(["info"])
        print({heavy} & set(sys.modules))
    """
    assert python(script) == "set()\n"


def test_commands_but_demo_need_numba_and_numpy_alone(tmp_path):
    """Where nothing else can be imported, in workers neither, they do all that they do."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL}))"
    (tmp_path / "sitecustomize.py").write_text(hide)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    race = ["--shape", "6,5", "--seconds", ".001", "--json", "--peers", "scipy", "numpy_idiom"]
    results = json.loads(python(MAIN, "bench", *race, PYTHONPATH=path))["results"]
    notes = {row["peer"]: row.get("note") for row in results}
    assert notes == {"copy": None, "fastxent": None, "numpy_idiom": None, "scipy": "needs scipy"}
    assert "pip install 'fastxent[cuda13]'" in " ".join(
        python(MAIN, "info", PYTHONPATH=path).split()
    )
    ready = python(MAIN, "warmup", "--function", "softmax", PYTHONPATH=path)
    assert ready.startswith("8 variants of kernels ready")


# --- threads, CPU ---------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["OMP_NUM_THREADS", "CPU affinity", "num_threads"])
def test_why_that_many_threads(source):
    limits = [threads.Limit(3, "CPU affinity"), threads.Limit(4, "cgroup CPU quota")]
    found = {"used": 3, "source": source, "limits": [limit._asdict() for limit in limits]}
    found["tensors"] = None if source == "num_threads" else "torch.get_num_threads()"
    said = dict(info._threads(found))
    own = "the same" if source == "num_threads" else "at most torch.get_num_threads()"
    assert said["  tensors"] == own
    assert said["Threads"].startswith("3, by ") and source.split()[-1] in said["Threads"]
    assert said["  limits"] == "CPU affinity 3, cgroup CPU quota 4"


def test_a_number_that_a_program_sets_is_the_reason():
    with fx.num_threads(7):
        found = machine.thread_count()
    assert (found["used"], found["source"], found["tensors"]) == (7, "num_threads", None)


@pytest.mark.parametrize(
    ("flags", "features", "width", "said"),
    [
        ("+sse2,+avx,+avx2,-avx512f", ["sse2", "avx", "avx2"], 32, "each in 2 registers of 32"),
        ("+neon,+sve", ["neon"], 16, "each in 4 registers of 16 bytes"),
        ("+avx512f,+sse2", ["sse2", "avx512f"], 64, "each in 1 register of 64 bytes"),
        ("", [], None, "16 float32 or 8 float64"),
    ],
)
def test_registers(monkeypatch, flags, features, width, said):
    """By what LLVM is told of the CPU; of a CPU that was only named, they are not known."""
    codegen = SimpleNamespace(magic_tuple=lambda: ("triple", "name", flags))
    context = SimpleNamespace(codegen=lambda: codegen)
    monkeypatch.setattr(target, "cpu_target", SimpleNamespace(target_context=context))
    assert target.target() == ("name", features, 64, width)
    assert said in dict(info._cpu(machine.cpu()))["  vectors"]


# --- cache ----------------------------------------------------------------------------------


def test_cache_is_counted_and_tried_without_a_trace(tmp_path, monkeypatch):
    place = tmp_path / "deep" / "kernels"
    monkeypatch.setenv("FASTXENT_CACHE_DIR", str(place))
    empty = {"path": str(place), "variable": "FASTXENT_CACHE_DIR", "files": 0, "bytes": 0}
    assert machine.cache() == empty | {"writable": True, "obstacle": None}
    assert list(tmp_path.iterdir()) == []
    kernel_files.save("kernel", b"identity", b"payload")
    kernel_files.save("kernel", b"other", b"payload")
    (place / "other").write_text("not ours")
    counted = empty | {"files": 2, "bytes": 2 * (32 + len("payload"))}
    assert machine.cache() == counted | {"writable": True, "obstacle": None}


def test_a_cache_that_cannot_be_written_is_told_with_the_reason(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "kernels")
    monkeypatch.setenv("FASTXENT_CACHE_DIR", place)
    found = machine.cache()
    assert (found["writable"], found["obstacle"]) == (False, "Not a directory")
    assert ("  writable", "no: Not a directory") in info._cache(found)
    monkeypatch.setattr(fx, "warmup", lambda *names, **options: None)
    assert cli.main(["warmup"]) == 0
    assert capsys.readouterr().out.endswith(f"{place} (not writable: Not a directory)\n")


def test_no_place_for_a_cache(monkeypatch):
    monkeypatch.setattr(kernel_files, "location", lambda: (None, ""))
    found = machine.cache()
    assert found["path"] is None and "FASTXENT_CACHE_DIR is not set" in found["obstacle"]
    assert dict(info._cache(found))["Cache"] == "none"


# --- CUDA -----------------------------------------------------------------------------------


def test_gpus_and_what_is_missing_for_one(monkeypatch):
    """As a driver tells of them; kernels are made for the one that can run them, and not loaded."""
    pytest.importorskip("numba_cuda")
    driver = pytest.importorskip("cuda.bindings.driver")
    from fastxent.cuda import driver as ours

    done = driver.CUresult.CUDA_SUCCESS
    of_device = [("Old GPU", (7, 0), 8 << 30), ("New GPU", (9, 0), 80 << 30)]
    major = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    fake = SimpleNamespace(
        CUdevice_attribute=driver.CUdevice_attribute,
        cuDriverGetVersion=lambda: (done, 13010),
        cuDeviceGetCount=lambda: (done, 2),
        cuDeviceGet=lambda number: (done, number),
        cuDeviceGetName=lambda length, n: (done, of_device[n][0].encode().ljust(length, b"\0")),
        cuDeviceGetAttribute=lambda kind, n: (done, of_device[n][1][kind != major]),
        cuDeviceTotalMem=lambda n: (done, of_device[n][2]),
    )
    monkeypatch.setattr(ours, "_bindings", lambda: fake)
    found = machine.cuda()
    assert found["driver_version"] == "13.1" and found["missing"] is None
    old, new = found["devices"]
    assert "compute capability (7, 5) or newer" in old["missing"]
    assert new == {
        "name": "New GPU", "compute_capability": [9, 0], "memory_bytes": 80 << 30, "missing": None,
    }  # fmt: skip
    said = list(info._cuda(found))
    assert said[0] == ("CUDA", "2 devices; the driver supports CUDA 13.1")
    assert said[-1] == ("  1", "New GPU, compute capability 9.0, 80.0 GiB")

    fake.cuDeviceGetCount = lambda: (done, 0)
    assert machine.cuda()["missing"] == "the CUDA driver shows no GPU to this process"


def test_a_gpu_or_what_to_do_for_one():
    """As this machine has it."""
    pytest.importorskip("numba_cuda")
    found = machine.cuda()
    if found["devices"]:
        assert found["missing"] is None and float(found["driver_version"]) >= 12
        assert all(device["memory_bytes"] > 1 << 30 for device in found["devices"])
    else:
        assert "nvidia-smi" in found["missing"]
        assert list(info._cuda(found)) == [("CUDA", "no devices"), ("  missing", found["missing"])]


# --- where it is shown ----------------------------------------------------------------------


def test_lines_are_broken_between_words_and_within_80_columns(capsys, monkeypatch):
    """What follows stands below its beginning; a path is never cut."""
    monkeypatch.setenv("COLUMNS", "80")
    path = "/a folder/" + "long-name-" * 12
    monkeypatch.setenv("FASTXENT_CACHE_DIR", path)
    assert cli.main(["info"]) == 0
    out, err = capsys.readouterr()
    first, *others = out.splitlines()
    assert first == f"fastxent    {fx.__version__}" and err == "" and "\x1b" not in out
    assert path.split()[1] in out
    assert all(len(line) <= 80 for line in others if "long-name" not in line)
    assert {line[:12] for line in others if line.startswith("    ")} == {" " * 12}


def test_in_a_terminal():
    """Names stand out; 80 columns and a screen suffice."""
    pytest.importorskip("rich")
    pytest.importorskip("pty", reason="there are no such terminals here")
    from terminals import Terminal

    with Terminal("-m", "fastxent", "info") as terminal:
        assert terminal.rest() == 0
    lines = terminal.text.splitlines()
    assert lines[0].startswith("fastxent ") and max(map(len, lines)) <= 80
    assert len(lines) < 24
    assert b"\x1b[1mCPU" in terminal.shown
