"""Cheap to import, and what is compiled is kept: where, and under which key."""

import ast
import os
from importlib.util import find_spec

import numpy as np
import pytest
from scripts import COUNTING, python

import fastxent as fx
from fastxent import kernel_files
from fastxent.cpu import jit

CALL = """
import numpy as np, fastxent as fx
loss, grad = fx.cross_entropy(np.float32([[2, 1, .1], [.1, 2, 1.9]]), [1, 0], return_grad=True)
print(round(float(loss), 4), round(float(fx.logsumexp(np.float32([1, 2]))), 4))
"""
ANSWER = "2.0185 2.3133\n"


def test_import_does_not_import_numba():
    """Nor a thread pool, nor any optional library; not even after checks that fail."""
    script = """
        import sys, numpy
        before = set(sys.modules)
        import fastxent as fx
        fx.get_num_threads()
        try:
            fx.cross_entropy([[1.0, 2.0]], [0.5])
        except TypeError:
            pass
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(new & {"numba", "llvmlite", "concurrent", "torch", "jax", "scipy", "sklearn",
                            "dask", "cupy", "rich", "ml_dtypes"}))
    """
    assert python(script) == "[]\n"


def test_numpy_arrays_import_no_optional_library():
    """A call on NumPy arrays loads Numba (which loads SciPy if it finds it) and no peer."""
    script = (
        CALL
        + """
import sys
print(sorted({"torch", "jax", "sklearn", "dask", "cupy", "rich", "xgboost", "lightgbm"}
             & set(sys.modules)))
"""
    )
    assert python(script) == ANSWER + "[]\n"


def test_import_is_cheap():
    """Under 50 ms beyond NumPy, of the CPU's time: the best of several."""
    script = """
        import time, numpy
        begin = time.process_time()
        import fastxent
        print(time.process_time() - begin)
    """
    assert min(float(python(script)) for _ in range(5)) < 0.05


def test_empty_then_warm_cache(tmp_path):
    """The first process fills the cache, the second compiles nothing, nor imports any kernel."""
    place = str(tmp_path / "deep" / "cache")
    assert python(CALL, FASTXENT_CACHE_DIR=place) == ANSWER
    files = sorted(os.listdir(place))
    assert len(files) == 3  # scan, loss + gradient, logsumexp
    assert all(name.endswith(".bin") for name in files)
    kernels = "import sys; print([name for name in sys.modules if name.endswith('kernels')])\n"
    script = COUNTING + CALL + "print(compiled)\n" + kernels
    assert python(script, FASTXENT_CACHE_DIR=place) == ANSWER + "[]\n[]\n"
    assert sorted(os.listdir(place)) == files


def test_places(monkeypatch, tmp_path):
    """Where the cache is, by variable and by platform."""
    for name in ("FASTXENT_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for platform, place in [
        ("linux", tmp_path / ".cache"),
        ("darwin", tmp_path / "Library" / "Caches"),
        ("win32", tmp_path / "AppData" / "Local"),
    ]:
        monkeypatch.setattr(kernel_files.sys, "platform", platform)
        assert kernel_files.location() == (place / "fastxent", "")
    monkeypatch.setattr(kernel_files.sys, "platform", "linux")
    for name, place in [
        ("XDG_CACHE_HOME", tmp_path / "xdg" / "fastxent"),
        ("NUMBA_CACHE_DIR", tmp_path / "numba" / "fastxent"),
        ("FASTXENT_CACHE_DIR", tmp_path / "own"),
    ]:
        monkeypatch.setenv(name, str(place if name[0] == "F" else place.parent))
        assert kernel_files.location() == (place, name)
        assert kernel_files.directory() == place


def test_warmup_compiles_all_there_is():
    """In a fresh process no call after warmup compiles or loads; each step is reported."""
    script = """
        import itertools, numpy as np, fastxent as fx
        from fastxent.cpu import jit
        steps = []
        fx.warmup(progress=lambda done, total: steps.append((done, total)))
        assert steps == [(k, 294) for k in range(1, 295)], steps[-1]
        known = dict(jit._results)
        flags = [f"return_{name}" for name in ("grad", "probs", "hess")]
        for kind in ("f4", "f8", "i1"):
            x = np.zeros((3, 2), kind)
            soft = np.full((3, 2), 0.5, x.dtype if kind != "i1" else float)
            for wanted in itertools.product((False, True), repeat=3):
                asked = dict(zip(flags, wanted))
                for target in ([0, 1, 1], soft):
                    fx.cross_entropy(x, target, label_smoothing=0.1, softcap=2.0,
                                     return_lse=True, weight=[1, 2], **asked)
                    fx.cross_entropy(x, target, **asked)
                for how in ("none", "mean"):
                    fx.binary_cross_entropy_with_logits(x, soft, reduction=how, **asked)
                    fx.binary_cross_entropy_with_logits(x, soft, weight=[1, 2], pos_weight=2,
                                                        reduction=how, **asked)
            for target in ([0, 1, 1], soft):
                fx.cross_entropy(np.asfortranarray(x), target, return_grad=True, return_hess=True)
                fx.linear_cross_entropy(x, np.zeros((2, 2)), target, return_grad=True)
                for grad in (False, True):
                    fx.categorical_cross_entropy(x, target, eps=0.1, return_grad=grad)
                    fx.binary_cross_entropy(x, soft, eps=0.1, return_grad=grad, weight=soft)
                for rows in (x, np.asfortranarray(x), np.zeros((3, 1000), kind)):
                    wide = target if type(target) is list else np.zeros(rows.shape, soft.dtype)
                    fx.cross_entropy_hvp(rows, wide, rows)
                    for grad in (False, True):
                        fx.cross_entropy(rows, wide, return_entropy=True, return_grad=grad)
                        fx.entropy(rows, return_grad=grad)
                fx.linear_cross_entropy_hvp(x, np.zeros((2, 2)), target, (x, None, None))
            for given in ({}, {"weight": [1, 2]}):
                fx.binary_cross_entropy_with_logits_hvp(x, soft, x, **given)
            for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
                function(x, axis=0), function(np.ones((3, 2, 3), x.dtype), axis=1)
        print(jit._results == known, len(known))
    """
    assert python(script) == "True 173\n"  # one of them reads labels, whatever the logits' type


def test_warmup_of_half_precision():
    """Likewise, of the functions named: with targets of its own type and of float32."""
    script = """
        import itertools, numpy as np, fastxent as fx
        from fastxent.cpu import jit
        fx.warmup("bfloat16", functions=["softmax", "categorical_cross_entropy"])
        known = dict(jit._results)
        for n_classes in (2, 1000):
            x = np.full((3, n_classes), 0.5, "bfloat16")
            fx.softmax(x), fx.softmax(np.asfortranarray(x))
            for target, grad in itertools.product(([0, 1, 1], x, x.astype("f4")), (False, True)):
                fx.categorical_cross_entropy(x, target, return_grad=grad)
        fx.softmax(np.full((20, 20, 2), 0.5, "bfloat16")[..., 0])
        print(jit._results == known)
    """
    assert python(script) == "True\n"


def test_warmup_of_some():
    """A type and functions may be named alone, as a string or in a list; others are refused."""
    steps = []
    fx.warmup("float32", functions="softmax", progress=lambda done, total: steps.append(total))
    fx.warmup([np.float32], functions=["softmax", "binary_cross_entropy"],
              progress=lambda done, total: steps.append(total))  # fmt: skip
    assert steps == [4] * 4 + [7] * 7
    steps.clear()
    fx.warmup(functions=(name for name in ["softmax"]),
              progress=lambda done, total: steps.append(total))  # fmt: skip
    fx.warmup(np.float64, functions="softmax", progress=lambda done, total: steps.append(total))
    assert steps == [8] * 8 + [4] * 4  # an iterator serves all types; a type need not be in a list
    for bad in ("int8", "nonsense", [np.ones(2)], [None]):
        with pytest.raises(ValueError, match="dtypes must hold 'float32', 'float64', .* got"):
            fx.warmup(bad, functions="softmax")
    for bad in ("argmax", [None]):
        with pytest.raises(ValueError, match="functions must be one of softmax, .* got"):
            fx.warmup(functions=bad)


def test_without_the_compiler():
    """NUMBA_DISABLE_JIT is answered plainly."""
    script = """
        import fastxent as fx
        try:
            fx.softmax([1.0, 2.0])
        except RuntimeError as error:
            print(error)
    """
    said = python(script, NUMBA_DISABLE_JIT="1")
    assert said == "NUMBA_DISABLE_JIT is set, but fastxent's kernels exist compiled only\n"


def test_only_what_was_kept_is_loaded(tmp_path, monkeypatch):
    """Any bit flipped, any cut, another's content: nothing, instead of something else."""
    monkeypatch.setenv("FASTXENT_CACHE_DIR", str(tmp_path))
    kernel_files.save("kernel", b"identity", b"payload")
    (path,) = tmp_path.iterdir()
    good = path.read_bytes()
    assert kernel_files.load("kernel", b"identity") == b"payload"
    assert kernel_files.load("kernel", b"other") is None
    kernel_files.save("kernel", b"other", b"payload")
    (other,) = (file.read_bytes() for file in tmp_path.iterdir() if file != path)
    flipped = (
        good[:k] + bytes([good[k] ^ 1 << bit]) + good[k + 1 :]
        for k in range(len(good))
        for bit in range(8)
    )
    for bad in [*flipped, *(good[:k] for k in range(len(good))), good + b"0", other]:
        path.write_bytes(bad)
        assert kernel_files.load("kernel", b"identity") is None


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    """A disk that fills up midway leaves no half file behind."""

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel_files.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        kernel_files._write(tmp_path / "x.bin", b"content")
    assert list(tmp_path.iterdir()) == []


def test_the_key_knows_what_the_code_depends_on(monkeypatch):
    """Another version, CPU, setting or kernel source is another file."""

    class Codegen:
        cpu = "one"

        def magic_tuple(self):
            return ("triple", self.cpu, "features")

    codegen = Codegen()
    seen = {jit._identity("kernel", ("types",), codegen)}
    seen.add(jit._identity("other", ("types",), codegen))
    seen.add(jit._identity("kernel", ("other",), codegen))
    codegen.cpu = "two"
    seen.add(jit._identity("kernel", ("types",), codegen))
    monkeypatch.setattr(kernel_files, "sources", lambda folder: "edited")
    seen.add(jit._identity("kernel", ("types",), codegen))
    monkeypatch.setattr(jit.config, "BOUNDSCHECK", "another")
    seen.add(jit._identity("kernel", ("types",), codegen))
    monkeypatch.setattr(jit.numba, "__version__", "9")
    seen.add(jit._identity("kernel", ("types",), codegen))
    assert len(seen) == 7


class OnGpu:
    """What a GPU array looks like to code that has not imported its library."""

    __cuda_array_interface__ = {"shape": (4,)}


@pytest.mark.skipif(find_spec("numba_cuda") is not None, reason="is about its absence")
@pytest.mark.parametrize("function", [fx.softmax, fx.logsumexp, fx.binary_cross_entropy])
def test_a_gpu_array_without_numba_cuda(function):
    """The error says what to install."""
    with pytest.raises(ImportError, match=r"pip install 'fastxent\[cuda13\]'"):
        function(*(OnGpu(),) * (1 + (function is fx.binary_cross_entropy)))


def test_functions_of_two_processes_have_different_names(tmp_path):
    """Otherwise a process that loads kernels compiled by others could run the wrong function."""
    code = """
        import numpy as np, fastxent as fx
        from fastxent.cpu import jit
        fx.softmax(np.zeros((2, 40), np.float32))
        print([r.fndesc.unique_name for d in jit._dispatchers for r in d.overloads.values()])
    """
    names = [
        set(ast.literal_eval(python(code, FASTXENT_CACHE_DIR=str(tmp_path / folder))))
        for folder in ("one", "other")
    ]
    assert all(names) and names[0].isdisjoint(names[1])
