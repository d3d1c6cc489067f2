"""The command line: what it prints, where, and with which exit status."""

import errno
import io
import json
import os
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent import cli
from fastxent.cli import demo, info
from fastxent.cli.demo import data, fits, pipeline, presentation, timing


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def sklearn():
    return pytest.importorskip("sklearn")


@pytest.fixture
def rich():
    return pytest.importorskip("rich")


@pytest.fixture
def fast(monkeypatch):
    """The demo as it is, but for a smaller problem, and fewer and smaller timings."""
    monkeypatch.setattr(timing, "ROUNDS", 3)
    monkeypatch.setattr(timing, "LARGE_ROUNDS", 3)
    monkeypatch.setattr(timing, "LARGE", (64, 100))
    monkeypatch.setattr(data, "LARGER", (600, 20, 4))


def python(*arguments, **environment):
    """Run a Python that turns warnings into errors; its output is piped."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True, text=True, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip


def row(text, name):
    """The cells behind `name` in the first table of `text` that has them."""
    found, *_ = re.findall(rf"^ *{re.escape(name)}  +(.*?) *$", text, re.MULTILINE)
    return re.split("  +", found)


def speed_ups(text):
    return [float(found) for found in re.findall(r"(\d+\.\d\d)x", text)]


# --- as a program ---------------------------------------------------------------------------


def test_demo_agrees_with_scikit_learn(sklearn):
    # FORCE_COLOR is a wish for terminals that do not say what they are; a pipe stays a pipe.
    done = python("-m", "fastxent", "demo", FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    for name in ("test accuracy", "test loss", "train objective"):
        steps, ours, theirs = row(done.stdout, name)
        assert float(steps) == pytest.approx(float(theirs), rel=2e-4)
        assert float(ours) == pytest.approx(float(theirs), rel=2e-4)
    assert len(set(row(done.stdout, "test accuracy"))) == 1
    assert len(speed_ups(done.stdout)) == 2
    assert done.stdout.isascii() and "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stderr == ""


def test_help_shows_commands_and_exit_statuses():
    done = python("-m", "fastxent", "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("usage: python -m fastxent ")
    assert demo.SUMMARY in done.stdout and "130" in done.stdout


@pytest.mark.parametrize("command", ["demo", "bench", "info", "warmup"])
def test_help_teaches_within_80_columns(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["somewhere/__main__.py", command, "--help"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert f"examples:\n  python -m fastxent {command}" in out
    assert "--json" in out and max(map(len, out.splitlines())) <= 80


def test_version():
    done = python("-m", "fastxent", "--version")
    assert (done.returncode, done.stdout) == (0, f"fastxent {fx.__version__}\n")


def test_unknown_command_is_wrong_usage():
    done = python("-m", "fastxent", "fry")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'fry'" in done.stderr and "demo" in done.stderr


def test_missing_scikit_learn_is_a_failure():
    program = "import sys; sys.modules['sklearn'] = None; from fastxent import cli; "
    done = python("-c", program + "sys.exit(cli.main(['demo']))")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fastxent demo needs scikit-learn: pip install 'fastxent[demo]'\n"


def test_a_command_line_without_a_command_imports_nothing_heavy():
    heavy = "{'numba', 'sklearn', 'scipy', 'rich'}"
    done = python("-c", f"import sys, fastxent.cli; print({heavy} & set(sys.modules))")
    assert done.stdout == "set()\n", done.stderr


# --- in this process ------------------------------------------------------------------------


def test_module_runs_main(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["somewhere/__main__.py", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("fastxent", run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"fastxent {fx.__version__}\n"


def test_without_a_command_the_help_goes_to_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fastxent"])
    assert cli.main() == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: fastxent ")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-iter", "0"), ("--max-iter", "1.5"), ("--tol", "-1"), ("--tol", "nan")],
)
def test_options_must_be_positive(option, value, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["demo", option, value])
    assert left.value.code == 2
    assert f"argument {option}: invalid positive" in capsys.readouterr().err


def test_ctrl_c(monkeypatch, capsys, sklearn):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "load_digits", interrupted)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_leaves_is_no_traceback(sklearn):
    """`fastxent demo | head -1`: the pipe breaks, and nothing is said about it."""
    for command in ("-u -m fastxent demo --max-iter 3", "-m fastxent info", "-m fastxent --help"):
        done = subprocess.run(
            f"{sys.executable} -W error {command} | head -0",
            shell=True, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.stderr == "", command


@pytest.mark.parametrize(
    ("platform", "problem", "raised"),
    [
        ("linux", BrokenPipeError(errno.EPIPE, "Broken pipe"), False),
        ("win32", OSError(errno.EINVAL, "Invalid argument"), False),
        ("win32", OSError(errno.EINVAL, "Invalid argument", "a?b"), True),  # a file's name
        ("linux", OSError(errno.EINVAL, "Invalid argument"), True),
    ],
)
def test_broken_pipes_of_each_platform(monkeypatch, tmp_path, platform, problem, raised):
    """On Windows, a write to a broken pipe is an invalid argument."""

    def fail(args):
        raise problem

    monkeypatch.setattr(cli.sys, "platform", platform)
    monkeypatch.setattr(info, "run", fail)
    with open(tmp_path / "stdout", "w") as stdout:
        monkeypatch.setattr(cli.sys, "stdout", stdout)
        if raised:
            with pytest.raises(OSError, match="Invalid argument"):
                cli.main(["info"])
        else:
            assert cli.main(["info"]) == 1


def test_missing_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit, match=r"pip install 'fastxent\[demo\]'"):
        cli.main(["demo"])


def test_demo_in_a_pipe(fast, capsys, sklearn):
    assert cli.main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert len(set(row(out, "test accuracy"))) == 1
    assert err == ""


def test_demo_as_json(fast, capsys, sklearn):
    """One object on stdout: the figures of both tables, with units in their names."""
    assert cli.main(["demo", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    digits, larger = found["digits"], found["larger"]
    assert list(digits["fits"]) == ["plain steps", "fastxent", "scikit-learn"]
    for fit in digits["fits"].values():
        assert fit["accuracy"] == digits["fits"]["scikit-learn"]["accuracy"] > 0.9
        assert fit["seconds"] > 0
    assert (digits["train"], digits["test"]) == (1347, 450)
    assert (larger["train"], larger["test"]) == (540, 60) and len(larger["fits"]) == 2
    ours, theirs = larger["fits"]["fastxent"], larger["fits"]["scikit-learn"]
    for name in ("accuracy", "iterations"):
        assert ours[name] == theirs[name] > 0
    for name in ("objective", "test_loss"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6)
    for case in found["evaluations"]:
        assert case["speed_up"] == case["numpy_seconds"] / case["fastxent_seconds"]
    assert len(found["evaluations"]) == 2 and err == ""


def test_a_failure_prints_no_json(capsys, sklearn):
    with pytest.raises(SystemExit, match="--max-iter"):
        cli.main(["demo", "--max-iter", "5", "--json"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_demo_in_a_terminal(quiet, fast, monkeypatch, sklearn, rich):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert cli.main(["demo", *["--quiet"] * quiet]) == 0
    assert "\x1b[" in out.getvalue()
    assert len(speed_ups(out.getvalue())) == 2
    if quiet:
        assert err.getvalue() == ""
    else:
        assert "objective 0.224035" in err.getvalue()
        assert re.search(r"fastxent: iteration.*m(\d+)/\1\x1b", err.getvalue())


def test_demo_in_a_terminal_without_rich(fast, monkeypatch, sklearn):
    monkeypatch.setitem(sys.modules, "rich", None)
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert cli.main(["demo"]) == 0
    assert len(set(row(out.getvalue(), "test accuracy"))) == 1
    steps, *estimators = err.getvalue().removesuffix("\n").split("\n")
    first, *_, last = steps.split("\r")
    assert "compiling" in first and "objective 0.224035" in last
    ends = [line.split("\r")[-1] for line in estimators]
    names = ("fastxent", "scikit-learn") * 2
    assert [re.sub(r" (\d+)/\1$", "", end) for end in ends] == [f"{n}: iteration" for n in names]
    assert "\x1b" not in out.getvalue() + err.getvalue()


def test_a_fit_that_stops_too_early_is_a_failure(capsys, sklearn):
    with pytest.raises(SystemExit, match="(?s)after 5 iterations .* --max-iter"):
        cli.main(["demo", "--max-iter", "5"])
    assert row(capsys.readouterr().out, "iterations")[0] == "5"


# --- the parts that can be wrong ------------------------------------------------------------


def test_gradient_of_the_objective_is_its_derivative(rng):
    x, y = rng.random((20, 4)), rng.integers(0, 3, 20)
    objective = pipeline.Objective(x, y, 3, penalty=0.1)
    theta = rng.standard_normal(objective.size)
    grad = objective(theta)[1].copy()
    steps = 1e-6 * np.eye(objective.size)
    slope = [(objective(theta + h)[0] - objective(theta - h)[0]) / 2e-6 for h in steps]
    np.testing.assert_allclose(grad, slope, rtol=0, atol=1e-8)


def test_curvature_is_bounded(rng):
    x, y = rng.random((20, 4)), rng.integers(0, 3, 20)
    objective = pipeline.Objective(x, y, 3, penalty=0.1)
    bound = objective.lipschitz_constant()
    for _ in range(100):
        a, b = rng.standard_normal((2, objective.size))
        difference = objective(a)[1].copy() - objective(b)[1]
        assert np.linalg.norm(difference) <= bound * np.linalg.norm(a - b)


@pytest.mark.parametrize("wrong", [1.0 + 1e-9, np.nan])
def test_times_of_different_numbers_are_not_compared(wrong):
    with pytest.raises(SystemExit, match="a case: differs from NumPy"):
        timing.compare("a case", lambda: (1.0,), lambda: (wrong,), tolerance=1e-12, rounds=1)


def test_a_losing_time_is_shown_as_one(capsys):
    presentation.show_speeds([timing.Speed("a case", 2e-3, 1e-3)])
    assert row(capsys.readouterr().out, "a case") == ["2.00 ms", "1.00 ms", "0.50x"]


@pytest.mark.parametrize("field", ["accuracy", "test_loss", "objective"])
def test_agreement_looks_at_accuracy_and_both_losses(field):
    fit = fits.Fit(0.9, 0.2, 0.3, 100, 1.0)
    fits.require_agreement(fit, fit)
    with pytest.raises(SystemExit, match="differs from scikit-learn's"):
        fits.require_agreement(fit, fit._replace(**{field: 0.91}))


# --- what the machine does not have ---------------------------------------------------------


@pytest.mark.parametrize("command", ["demo", "bench", "info", "warmup"])
@pytest.mark.parametrize(
    "error, says",
    [(MemoryError("Unable to allocate 8 GiB"), "not enough memory: Unable to allocate 8 GiB"),
     (MemoryError(), "not enough memory: none is left"),
     (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
     (OSError(errno.ENOSPC, "No space left on device"), "No space left on device")],
)  # fmt: skip
def test_no_memory_is_one_line(command, error, says, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(cli._commands()[command], "run", fail)
    assert cli.main([command]) == 1
    assert capsys.readouterr().err == f"fastxent: {says}\n"


def test_other_errors_of_the_system_are_not_hidden(monkeypatch):
    def fail(args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cli._commands()["info"], "run", fail)
    with pytest.raises(PermissionError):
        cli.main(["info"])


def test_a_shape_that_no_memory_holds():
    """In a process that may have no more than 64 GiB of addresses, whatever the machine has."""
    pytest.importorskip("resource", reason="needs Unix")
    code = """if True:
        import resource, sys
        from fastxent.cli import main
        resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36))
        sys.exit(main(["bench", "--shape", "9999999999,10", "--peers"]))
    """
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr.startswith("fastxent: not enough memory: ")
    assert done.stderr.count("\n") == 1
