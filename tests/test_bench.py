"""The benchmarks: peers are right or not timed, results become a page, commands say what is wrong.

Peers with thread pools of their own run in workers alone: other tests fork this process.
"""

import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx
from fastxent import cli
from fastxent.bench import answers, dtypes, inputs, layouts, record, serve, startup
from fastxent.bench.cases import EVERYBODY, GROUPS, PLAIN, Case, heats
from fastxent.bench.peers import PEERS
from fastxent.bench.race import Race
from fastxent.cli import machine

BENCH = Path(__file__).parent.parent / "bench"
SMALL = [
    Case(7, 5),
    Case(7, 5, "float64"),
    Case(7, 5, job="loss"),
    Case(7, 5, job="forward"),
    Case(7, 5, job="softmax"),
    Case(7, 5, job="log_softmax"),
    Case(7, 1, job="binary"),
    Case(7, 5, job="linear", features=3),
    Case(7, 5, job="categorical"),
    Case(7, 5, label_dtype="uint8"),
    Case(7, 5, layout="column-major"),
]
# Groups of other layouts, types, losses and options, in which peers differ in what they are given.
OTHER = ("layouts", "half", "categorical", "binary_few", "labels", "options", "one_row")
IN_PROCESS = ("fastxent", "fastxent_out", "numpy_idiom", "numpy_tuned", "scipy")


def peer(name):
    return importlib.import_module(f"fastxent.bench.peers.{name}")


def prepared(name, case, arrays):
    """The call that a peer times."""
    arguments, options = inputs.arguments(case, arrays)
    return getattr(peer(name), case.job)(*arguments, **options)


def tiny(heat):
    """A heat on a few rows and classes, of images of four pixels."""
    return tuple(
        replace(
            entry,
            case=replace(
                entry.case, rows=min(entry.case.rows, 8), classes=min(entry.case.classes, 5),
                image=min(entry.case.image, 2),
            ),
        )
        for entry in heat
    )  # fmt: skip


# --- cases and answers ----------------------------------------------------------------------


def test_table_of_cases():
    """Every side names a peer, no heat holds a side twice, and nothing outgrows a laptop."""
    for group in GROUPS.values():
        assert group.heats and group.rounds >= 3
        for heat in group.heats:
            assert len(set(heat)) == len(heat)
            assert {entry.peer for entry in heat} <= set(PEERS)
            assert all(entry.case.floor_bytes < 1 << 30 for entry in heat)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_peers_agree_with_the_reference(case):
    arrays = inputs.make(case)
    for name in IN_PROCESS:
        if hasattr(peer(name), case.job):
            call = prepared(name, case, arrays)
            for _ in range(2):  # buffers are used again
                error = answers.error(call(), answers.expected(case, arrays))
                assert error <= answers.TOLERANCE[case.dtype], name


@pytest.mark.parametrize("group", OTHER)
def test_peers_agree_on_other_layouts_and_types(group):
    for heat in GROUPS[group].heats:
        for entry in tiny(heat):
            if entry.peer in IN_PROCESS:
                case, arrays = entry.case, inputs.make(entry.case)
                call = prepared(entry.peer, case, arrays)
                error = answers.error(call(), answers.expected(case, arrays))
                assert error <= answers.TOLERANCE[case.dtype], entry


@pytest.mark.parametrize("heat", GROUPS["options"].heats, ids=lambda heat: str(heat[0].case))
def test_every_option_is_timed_beside_the_plain_call(heat):
    """And a peer that would compute the plain loss is wrong, whatever the number of its results."""
    case = heat[0].case
    assert [e.case for e in heat if e.peer == "fastxent"] == list(dict.fromkeys([case, PLAIN]))
    assert {entry.case for entry in heat} <= {case, PLAIN}
    if not case.options or case.job != "cross_entropy":
        return
    arrays = inputs.make(case)
    exact = answers.expected(case, arrays)
    if case.classes_first:
        assert exact[1].shape == (10, 32)
    elif "return_lse" in case.options:
        assert [part.shape for part in exact] == [(), (32, 10), (32, 10), (32,)]
    else:
        plain = peer("numpy_idiom").cross_entropy(*arrays)
        assert not answers.error(plain(), exact) <= answers.TOLERANCE[case.dtype]


def test_the_arrays_of_a_case():
    """Type, layout and labels are those of the case; the numbers do not depend on the layout."""
    rows, labels = inputs.make(Case(8, 5))
    images, pixels = inputs.make(Case(8, 5, layout="channels-first", image=2))
    assert images.shape == Case(8, 5, layout="channels-first", image=2).shape == (2, 5, 2, 2)
    assert images.flags.c_contiguous and pixels.shape == (2, 2, 2)
    np.testing.assert_array_equal(layouts.as_rows(images), rows)
    np.testing.assert_array_equal(layouts.as_rows(pixels), labels)
    columns, _ = inputs.make(Case(8, 5, layout="column-major"))
    assert columns.flags.f_contiguous and (columns == rows).all()
    short, narrow = inputs.make(Case(8, 5, "float16", label_dtype="uint8"))
    assert short.dtype == np.float16 and narrow.dtype == np.uint8
    np.testing.assert_array_equal(short, rows.astype(np.float16))
    np.testing.assert_array_equal(narrow, labels)
    columns, same = inputs.make(Case(8, 5, options="axis"))
    assert columns.flags.c_contiguous and columns.shape == Case(8, 5, options="axis").shape == (
        5,
        8,
    )
    assert (columns.T == rows).all() and (same == labels).all()


def test_the_arguments_of_a_case():
    """Labels become a list where one is timed; options have the type and the shape of the case."""
    case = Case(8, 5, "float64", label_dtype="list", options="sample_weight weight reduction")
    (logits, listed), options = inputs.arguments(case, inputs.make(case))
    assert logits.dtype == np.float64 and listed == inputs.make(Case(8, 5, "float64"))[1].tolist()
    assert list(options) == ["sample_weight", "weight", "reduction"]
    assert options["sample_weight"].shape == (8,) and options["weight"].shape == (5,)
    assert options["weight"].dtype == np.float64 and options["reduction"] == "none"
    assert inputs.arguments(Case(8, 5), (logits, rows := np.arange(8)))[0][1] is rows


def test_names_and_bytes_of_cases():
    """Names of the usual cases stay, for results are kept under them; others say what is other."""
    assert str(Case(7, 5)) == "cross_entropy-7x5-float32-random-index"
    other = Case(8, 5, "float16", layout="channels-first", image=2, label_dtype="int32")
    assert str(other) == "cross_entropy-8x5-float16-random-index-channels-first-int32"
    smoothed = Case(7, 5, options="label_smoothing weight")
    assert str(smoothed) == f"{Case(7, 5)}-label_smoothing-weight"
    assert other.floor_bytes == 2 * 8 * 5 * 2 and Case(8, 5, "bfloat16").floor_bytes == 160
    assert Case(8, 5).floor_bytes == 320 and Case(8, 5, "float64").floor_bytes == 640


def test_bfloat16_keeps_its_type_in_files(tmp_path):
    pytest.importorskip("ml_dtypes")
    arrays = inputs.make(Case(8, 5, "bfloat16"))
    serve.save(tmp_path, "inputs", arrays)
    logits, labels = serve.load(tmp_path, "inputs")
    assert logits.dtype == dtypes.named("bfloat16") and labels.dtype == np.int64
    assert (logits == arrays[0]).all()


@pytest.mark.parametrize("target", ["index", "soft", "one-hot"])
@pytest.mark.parametrize("logits", ["wide", "confident"])
def test_other_logits_and_targets(logits, target):
    """Ours alone: where p underflows, NumPy's idiom gives an infinite loss."""
    case = Case(7, 5, logits=logits, target=target)
    arrays = inputs.make(case)
    if target != "index":
        np.testing.assert_allclose(arrays[1].sum(axis=1), 1, rtol=1e-6)
    call = peer("fastxent").cross_entropy(*arrays)
    assert answers.error(call(), answers.expected(case, arrays)) <= 1e-4


def test_confident_logits_are_those_of_a_trained_model():
    logits, labels = inputs.make(Case(2000, 10, logits="confident"))
    ordered = np.sort(logits, axis=1)
    lead = ordered[:, -1] - ordered[:, -2]
    assert 9.9 < lead.min() and lead.max() < 30.1
    assert 0.93 < (logits.argmax(axis=1) == labels).mean() < 0.98


@pytest.mark.parametrize("spoil", [lambda g: g * 1.001, lambda g: g * np.nan, lambda g: g[1:]])
def test_a_wrong_answer_is_an_error(spoil):
    case = Case(70, 5)
    arrays = inputs.make(case)
    loss, grad = answers.expected(case, arrays)
    assert not answers.error((loss, spoil(grad)), (loss, grad)) <= 1e-4
    assert not answers.error((spoil(loss[None])[:1].sum(), grad), (loss, grad)) <= 1e-4


def test_a_wrong_image_is_an_error():
    """Of logits with the classes on axis 1 the errors are those of the pixels."""
    case = Case(64, 5, layout="channels-first", image=4)
    loss, grad = answers.expected(case, inputs.make(case))
    spoiled = grad.copy()
    spoiled[-1, :, 3, 2] *= 1.001
    assert answers.error((loss, grad), (loss, grad)) == 0
    assert 4e-4 < answers.error((loss, spoiled), (loss, grad)) < 2e-3
    assert not answers.error((loss, layouts.as_rows(grad)), (loss, grad)) <= 1e-4


def test_float16_may_round_to_its_own_steps():
    """A gradient that float16 holds no better is right, one two steps beside is not."""
    case = Case(4096, 50, "float16")
    loss, grad = answers.expected(case, inputs.make(case))
    assert answers.error((loss, grad.astype(np.float16)), (loss, grad)) <= 1e-3
    beside = (grad + 2 * np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    assert not answers.error((loss, beside), (loss, grad)) <= answers.TOLERANCE["float16"]


# --- workers --------------------------------------------------------------------------------


class Pipe:
    """A parent's requests, and the replies to them."""

    def __init__(self, *requests):
        self.requests, self.replies = list(requests), []

    def recv(self):
        if not self.requests:
            raise EOFError
        return self.requests.pop(0)

    def send(self, reply):
        self.replies.append(reply)


def test_a_wrong_peer_is_not_timed(tmp_path, monkeypatch):
    """Served in this process: the right peer is timed, the wrong one is reported and is not."""
    case = Case(7, 5)
    arrays = inputs.make(case)
    serve.save(tmp_path, "inputs", arrays)
    serve.save(tmp_path, "expected", answers.expected(case, arrays))
    requests = ("prepare", case, tmp_path), ("time", 0.001), ("release",), ("time", 0.001)
    right = Pipe(("versions",), *requests)
    serve.serve(right, "numpy_idiom", 1)
    versions, facts, seconds, nothing, failed = right.replies
    assert versions == {"numpy": np.__version__}
    assert facts["logits_mod_64"] == facts["logits_mod_64"] // 8 * 8
    assert 0 < seconds < 0.1 and nothing is None and isinstance(failed, serve.PeerFailed)

    answer = np.float32(1), arrays[0]
    monkeypatch.setattr(peer("numpy_idiom"), "cross_entropy", lambda *given: lambda: answer)
    wrong = Pipe(*requests[:2], ("prepare", Case(7, 5, job="softmax"), tmp_path))
    serve.serve(wrong, "numpy_idiom", 1)
    assert [str(reply).partition(":")[0] for reply in wrong.replies] == [
        "wrong result", "no case is prepared", "does not support softmax",
    ]  # fmt: skip


def test_all_peers_that_are_installed(monkeypatch):
    """One race of all on a tiny case: who is there is timed, who is not is noted."""
    monkeypatch.setitem(sys.modules, "jax", None)
    with Race(2) as race:
        (heat,) = heats([Case(6, 5)], EVERYBODY)
        results = race.run(heat, 2, 0.001)
    for result in results:
        if missing := PEERS[result.peer].missing():
            assert result.note == f"needs {missing}"
        else:
            assert not result.note and len(result.seconds) == 2, result
            assert all(0 < seconds < 1 for seconds in result.seconds)
    assert {"numpy", "scipy", "numba", "sklearn"} <= set(race.versions)
    assert not multiprocessing.active_children()


def test_every_peer_on_other_layouts_and_types():
    """As above, for peers that run in processes of their own; torch.compile takes too long."""
    with Race(1) as race:
        for group in OTHER:
            for heat in GROUPS[group].heats:
                sides = [e for e in tiny(heat) if e.peer not in ("torch_compile", *IN_PROCESS)]
                for result in race.run(tuple(sides), 1, 0.001) if sides else ():
                    missing = PEERS[result.peer].missing()
                    assert result.note == (f"needs {missing}" if missing else ""), result


def test_a_dead_worker_is_noted_and_replaced():
    (heat,) = heats([Case(6, 5)], ["copy", "numpy_idiom"])

    with Race(1) as race:
        race.run(heat, 1, 0.001)
        first = race._workers["copy", 1, 0]
        dead, alive = race.run(heat, 2, 0.001, first._process.kill)
        assert dead.note == "its process exited with -9"
        assert len(alive.seconds) == 2
        assert not any(result.note for result in race.run(heat, 1, 0.001))


def test_ctrl_c_leaves_no_process(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "rows", interrupted)
    assert cli.main(["bench", "--shape", "6,5", "--seconds", "0.001", "--peers"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not multiprocessing.active_children()


def test_first_calls_are_timed():
    """An empty cache is a new folder each time, the warm one that of the side's call before."""
    cold = "import os; os.mkdir(os.environ['FASTXENT_CACHE_DIR'])"
    warm = "import os, pathlib; f = pathlib.Path(os.environ['FASTXENT_CACHE_DIR'])"
    counted = f"{warm}; f.mkdir(exist_ok=True); (f / str(len(list(f.iterdir())))).touch()"
    sides = {
        "warm": startup.Side(f"{counted}; assert len(list(f.iterdir())) < 4"),
        "cold": startup.Side(cold, cached=False),
        "once": startup.Side(cold, cached=False, once=True),
        "absent": startup.Side("import nothing", needs="no_such_package"),
    }
    seconds = startup.measure(2, sides)
    assert {name: len(times) for name, times in seconds.items()} == {
        "warm": 2, "cold": 2, "once": 1,
    }  # fmt: skip
    with pytest.raises(subprocess.CalledProcessError):
        startup.measure(1, {"warm": startup.Side(f"{counted}; assert len(list(f.iterdir())) < 2")})


def test_a_usual_run_does_not_compile_everything(tmp_path, monkeypatch):
    """First calls are timed by default; every kernel's compilation if it is requested."""
    monkeypatch.syspath_prepend(BENCH)
    run = importlib.import_module("run")
    measured = []

    def measure(rounds, sides):
        measured.append(sides)
        return dict.fromkeys(sides, [0.5] * rounds)

    monkeypatch.setattr(startup, "measure", measure)
    for k, groups in enumerate([[], ["warmup"], ["startup", "warmup"]]):
        file = tmp_path / f"{k}.json"
        options = ["--output", str(file), *(["--groups", *groups] if groups else [])]
        monkeypatch.setattr(sys, "argv", ["run", *options])
        with monkeypatch.context() as few:
            few.setattr(run, "GROUPS", {})
            run.main()
        assert list(record.load(file)["startup"]) == list(measured[k])
    usual, everything, both = measured
    assert usual == startup.SIDES and not startup.EVERYTHING.keys() & usual.keys()
    assert everything == startup.BASE | startup.EVERYTHING
    assert both == startup.SIDES | startup.EVERYTHING


def test_the_code_of_warm_ups(monkeypatch):
    """One function for a usual run, and all that fastxent has."""
    calls = []
    monkeypatch.setattr(fx, "warmup", lambda *args, **options: calls.append((args, options)))
    for side in (startup.SIDES | startup.EVERYTHING).values():
        if "warmup" in side.code:
            exec(side.code)
    assert calls == [(("float32",), {"functions": "cross_entropy"}), ((), {})]


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs JAX")
def test_the_code_of_the_first_call_in_jax():
    side = startup.SIDES["first call in JAX, warm cache"]
    assert startup._run(side.code, Path(os.environ["FASTXENT_CACHE_DIR"])) > 0


# --- results --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The JSON file that a run of the command wrote."""
    file = tmp_path_factory.mktemp("bench") / "run.json"
    options = ["--shape", "6,5", "--seconds", "0.001", "--threads", "1", "--output", str(file)]
    assert cli.main(["bench", *options, "--peers", "fastxent_out", "scipy"]) == 0
    return file


def test_a_record_says_what_was_measured_where(results):
    run = record.load(results)
    assert run["threads"] == 1 and run["cpu"]["cores"] and run["versions"]["scipy"]
    copy, ours, *_ = run["results"]
    assert ours["peer"] == "fastxent" and ours["q25"] <= ours["median"] <= ours["q75"]
    assert ours["gb_per_s"] == pytest.approx(2 * 6 * 5 * 4 / ours["median"] / 1e9, rel=1e-2)
    assert copy["share_of_copy"] == 1 and record.ratio(ours, ours) == 1
    text = results.read_text()
    assert os.uname().nodename not in text and str(Path.home()) not in text


def test_page_and_plots_from_json(results, tmp_path, monkeypatch):
    """Two runs that hold every side become a page with every section, and its charts."""
    pytest.importorskip("matplotlib")
    run = record.load(results)
    timed = run["results"][1]
    run["results"] = [
        timed | asdict(entry.case)
        | {"group": name, "peer": entry.peer, "threads": entry.case.threads or 2, "heat": number}
        for name, group in GROUPS.items()
        for number, heat in enumerate(group.heats) for entry in heat
    ]  # fmt: skip
    run["results"].append(run["results"][0] | {"peer": "jax", "note": "needs optax"})
    run["startup"] = {side: {"median": 1.0, "seconds": [1.0]} for side in startup.SIDES}
    file, images, text = tmp_path / "a.json", tmp_path / "img", tmp_path / "page.md"
    record.save(run, file)
    assert record.load(file) == run
    monkeypatch.syspath_prepend(BENCH)
    for script, output in (("plot", images), ("page", text)):
        monkeypatch.setattr(sys, "argv", [script, str(file), str(file), "--output", str(output)])
        importlib.import_module(script).main()
    assert {image.stem for image in images.iterdir()} == {
        "table", "single", "features", "classes", "rows", "threads",
    }  # fmt: skip
    written = text.read_text()
    for group in GROUPS.values():
        assert f"## {group.title}\n" in written
    assert "needs optax" in written
    assert "| cross_entropy 4 × 21 × 256 × 256 float32, class axis 1 | time |" in written
    for side in ("fastxent, rows", "fastxent in PyTorch, float32", "fastxent, uint8", "plain",
                 'reduction="none"', "label_smoothing=0.1, weight", "a list of labels",
                 "categorical_cross_entropy, soft target", "binary_cross_entropy",
                 'fastxent in PyTorch, reduction="none"', "fastxent, plain"):  # fmt: skip
        assert f"\n| {side} |" in written
    assert "| loss 1 × 10 float32 | time |" in written


def test_an_option_is_compared_with_the_plain_call_of_its_heat(results, monkeypatch):
    """And each peer with fastxent; torch.nn with the module in its place."""
    monkeypatch.syspath_prepend(BENCH)
    tables = importlib.import_module("heat_tables")
    run = record.load(results)
    weighted = replace(PLAIN, options="weight")
    run["results"] = [
        asdict(case) | {"group": "options", "peer": name, "heat": heat, "threads": 2}
        | record.summary([microseconds * 1e-6] * 2)
        for heat, name, case, microseconds in [
            (0, "fastxent", PLAIN, 5), (0, "numpy_idiom", PLAIN, 15),
            (2, "fastxent", weighted, 8), (2, "numpy_idiom", weighted, 4),
            (2, "torch", weighted, 16), (2, "torch_module", weighted, 20),
            (2, "fastxent_torch", weighted, 40), (2, "fastxent", PLAIN, 4),
        ]
    ]  # fmt: skip
    _, _, plain, option = tables.option_by_option([run]).splitlines()
    assert plain == "| plain | 5.00 µs | 1.00 | 3.00 | – | – | – | – |"
    assert option == "| weight | 8.00 µs | 2.00 | **0.50** | 2.00 | – | 5.00 | **0.50** |"


def test_start_up_of_runs_with_different_sides(monkeypatch):
    """A side counts in the runs that have it; one of fewer rounds is compared with the first."""
    monkeypatch.syspath_prepend(BENCH)
    page = importlib.import_module("page")
    old = {"import numba": [0.2, 0.4], "first call": [0.4, 0.8]}
    new = {"import numba": [0.25, 0.5], "first call": [0.75, 1.5], "warm-up": [5.0]}
    runs = [
        {"startup": {side: record.summary(seconds) for side, seconds in sides.items()}}
        for sides in ({}, old, new)
    ]
    first, warmup = page.startup(runs).splitlines()[-2:]
    assert first == "| first call | 862 ms | 2.50 (2.00–3.00) |"
    assert warmup == "| warm-up | 5.00 s | 20.00 |"


def test_each_group_is_shown_as_it_was_measured_last(results, tmp_path, monkeypatch):
    """By the runs of one day on one CPU; earlier ones keep what was not measured again."""
    monkeypatch.syspath_prepend(BENCH)
    reader = importlib.import_module("results")
    run, sides = record.load(results), {"import numba": record.summary([1.0])}
    measured = [
        ("2026-01-02T09:00", "fast", ["loss", "table"], sides),
        ("2026-01-03T09:00", "slow", ["loss"], {}),
        ("2026-01-03T11:00", "fast", ["loss"], sides), ("2026-01-03T10:00", "fast", ["loss"], {}),
    ]  # fmt: skip
    paths = [tmp_path / f"{k}.json" for k in range(len(measured))]
    for path, (date, cpu, groups, first_calls) in zip(paths, measured, strict=True):
        rows = [run["results"][1] | {"group": name} for name in groups]
        own = {"date": date, "cpu": run["cpu"] | {"model": cpu}}
        record.save(run | own | {"results": rows, "startup": first_calls}, path)
    kept = reader.load_all(paths)
    assert [[row["group"] for row in r["results"]] for r in kept] == [["table"], ["loss"], ["loss"]]
    assert [bool(r["startup"]) for r in kept] == [False, True, False]


def test_a_page_without_groups_that_were_not_measured(results, tmp_path, monkeypatch):
    """Also from a run whose cases had fewer fields than today's."""
    monkeypatch.syspath_prepend(BENCH)
    page, reader = map(importlib.import_module, ("page", "results"))
    run = record.load(results)
    lately = ("layout", "image", "label_dtype", "options")
    case = Case(32, 1, job="binary")
    run["results"] = [
        {name: value for name, value in (row | asdict(case)).items() if name not in lately}
        | {"group": "binary_few", "threads": 1}
        for row in run["results"]
    ]
    record.save(run, tmp_path / "a.json")
    old = reader.load(tmp_path / "a.json")
    assert reader.case_of(old["results"][0]) == replace(case, threads=1)
    written = page.page([old])
    titles = [line[3:] for line in written.splitlines() if line.startswith("## ")]
    assert titles == [
        "Method", "Second derivatives, layouts, types and other losses",
        GROUPS["binary_few"].title, "Machines", "Reproduce",
    ]  # fmt: skip
    assert "\n| binary cross-entropy 32 × 1 float32 |" in written
    assert "features.png" not in written


def test_peers_are_compared_by_pytest():
    """A group for each case, small ones first; every answer is checked, missing peers skip."""
    pytest.importorskip("pytest_benchmark")
    chosen = "32x10 and (numpy or fastxent or scipy)"
    command = ["-m", "pytest", "-q", "-p", "no:xdist", "bench/test_peers.py", "-k", chosen]
    done = subprocess.run(
        [sys.executable, *command, "--benchmark-disable"],
        capture_output=True, text=True, cwd=BENCH.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


# --- commands -------------------------------------------------------------------------------


def test_bench_shows_a_table_a_shape(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "torch", None)
    picture = tmp_path / "a.svg"
    options = ["--shape", "6,5", "3,9", "--seconds", "0.001", "--plot", str(picture)]
    assert cli.main(["bench", *options, "--peers", "numpy_idiom", "torch"]) == 0
    out, err = capsys.readouterr()
    assert out.count("NumPy idiom") == 2 and "(3, 9) float32" in out
    assert out.count("PyTorch left out: needs torch\n") == 1
    assert err == "" and out.isascii() and max(map(len, out.splitlines())) <= 80
    assert picture.read_text().startswith("<?xml")


def test_bench_as_json_is_the_file_that_it_writes(capsys, tmp_path):
    file = tmp_path / "run.json"
    options = ["--shape", "6,5", "--seconds", "0.001", "--output", str(file), "--json"]
    assert cli.main(["bench", *options, "--peers"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == record.load(file) and err == ""


@pytest.mark.parametrize(
    "wrong",
    [["--shape", "6"], ["--shape", "0,5"], ["--dtype", "int8"], ["--threads", "0"],
     ["--seconds", "-1"], ["--peers", "abacus"]],
    ids=" ".join,
)  # fmt: skip
def test_bench_refuses_wrong_arguments(wrong, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["bench", *wrong])
    assert left.value.code == 2
    assert f"argument {wrong[0]}: invalid" in capsys.readouterr().err


def test_bench_says_what_is_missing_before_it_starts(monkeypatch, capsys, tmp_path):
    for option in ("--output", "--plot"):
        for file, says in (("nowhere/a.json", "there is no folder nowhere"),
                           (str(tmp_path), f"{tmp_path} is a folder")):  # fmt: skip
            with pytest.raises(SystemExit) as left:
                cli.main(["bench", option, file])
            assert left.value.code == 2
            assert f"argument {option}: {says}" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match=r"pip install 'fastxent\[bench\]'"):
        cli.main(["bench", "--plot", "a.png"])


def test_warmup_says_what_is_ready(capsys):
    assert cli.main(["warmup", "--dtype", "float32", "--function", "softmax"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("4 variants") and os.environ["FASTXENT_CACHE_DIR"] in out and err == ""
    assert (
        cli.main([*"warmup --dtype float32 --function softmax --processes 1 --json".split()]) == 0
    )
    ready = json.loads(capsys.readouterr().out)
    assert ready["variants"] == 4 and 0 < ready["seconds"] < 60
    assert ready["cache"] == machine.cache()
    for bad in (["--function", "hardmax"], ["--processes", "0"]):
        with pytest.raises(SystemExit) as left:
            cli.main(["warmup", *bad])
        assert left.value.code == 2


def test_caches_that_tell_no_size(tmp_path):
    """As on many ARM virtual machines: an entry that cannot be read is left out."""
    for k, files in enumerate([{"level": "1", "type": "Data", "size": "64K"},
                               {"level": "2", "type": "Unified"}, {"level": "3", "type": "Unified",
                                                                   "size": "32M"}]):  # fmt: skip
        (tmp_path / f"index{k}").mkdir()
        for name, text in files.items():
            (tmp_path / f"index{k}" / name).write_text(f"{text}\n")
    assert record.cpu(caches=tmp_path)["caches"] == {"L1 data": "64K", "L3 unified": "32M"}
    assert record.cpu(caches=tmp_path / "nowhere")["caches"] == {}


@pytest.mark.parametrize(
    "maker, part, name",
    [("0x41", "0xd0c", "ARM Neoverse-N1"), ("0xc0", "0xac3", "Ampere Ampere-1"),
     ("0x41", "0xfff", "ARM part 0xfff"), ("0x99", "0x1", "implementer 0x99 part 0x1")],
)  # fmt: skip
def test_the_model_of_an_arm_processor(tmp_path, maker, part, name):
    """Linux has no name of it there, but two codes."""
    file = tmp_path / "cpuinfo"
    file.write_text(
        "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd sve\n"
        f"CPU implementer\t: {maker}\nCPU architecture: 8\nCPU part\t: {part}\n"
    )
    found = record.cpu(proc=file)
    assert (found["model"], found["vectors"]) == (name, ["asimd", "sve"])
    file.write_text("processor\t: 0\n")
    assert record.cpu(proc=file)["model"] == record.cpu(proc=tmp_path / "nowhere")["model"]
