"""The kernels on a GPU: checked, timed, written down: `python bench/gpu.py --out <name>.json`.

Every answer is first compared with `fastxent.reference` in float64. Then, for each shape and type,
all sides take turns on buffers that the caches do not hold. A time is what the GPU takes: while it
sleeps, the call and an event on either side of it are put on its stream. What a call costs in
Python is timed apart. With --dry nothing is computed: a driver that does nothing launches on arrays
in host memory, which shows that everything else runs.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import fastxent as fx
from fastxent import reference
from fastxent.bench import answers, record
from fastxent.bench.peers import numpy_idiom

CLASSES = [256, 1024, 4096, 8192, 16384, 32768, 65536, 128256, 262144]
FEW_ROWS = [(1, 128256), (16, 32768), (16, 128256), (256, 4096)]
SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
# By `answers.error`: a row's error as a share of its numbers, each of them rounded once.
TOLERANCE = {"float32": 2e-5, "bfloat16": 8e-3, "float16": 1e-3}
# Arrays as large as the logits that a job cannot but read or write.
ARRAYS = {"cross_entropy": 2, "loss": 1, "softmax": 2}
PEERS = ["torch", "torch_compile", "numpy_idiom"]
SMALL = 32, 1000  # a call whose time is Python's
NUMPY_SIZE = 1 << 22  # logits that NumPy is given, on the host
PACKAGES = ["numba", "numba-cuda", "cuda-core", "cuda-bindings", "torch", "triton", "cupy", "numpy"]


# --- the GPU, or what stands for it ---------------------------------------------------------


class Gpu:
    """Memory, time and facts of a GPU, by PyTorch."""

    def __init__(self):
        import torch

        self.torch = torch
        self.l2 = torch.cuda.get_device_properties(0).L2_cache_size
        torch.manual_seed(0)

    def facts(self):
        """What there is, as far as the system tells."""
        asked = [
            "nvidia-smi",
            "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit",
        ]
        try:
            text = subprocess.run([*asked, "--format=csv"], capture_output=True, text=True).stdout
        except OSError:
            text = ""
        seen = self.torch.cuda.get_device_properties(0)
        return {
            "name": seen.name, "capability": [seen.major, seen.minor], "memory": seen.total_memory,
            "processors": seen.multi_processor_count, "l2": self.l2, "nvidia_smi": text.split("\n"),
            "cuda": self.torch.version.cuda,
        }  # fmt: skip

    def free(self):
        """Bytes of memory that can be had."""
        self.torch.cuda.empty_cache()
        return self.torch.cuda.mem_get_info()[0]

    def logits(self, rows, classes, dtype):
        """Normal with a standard deviation of 3."""
        made = self.torch.empty((rows, classes), dtype=getattr(self.torch, dtype), device="cuda")
        return made.normal_(0, 3)

    def labels(self, rows, classes):
        """Random classes."""
        return self.torch.randint(classes, (rows,), device="cuda")

    def like(self, array):
        """Another array of the kind, with nothing in it."""
        return self.torch.empty_like(array)

    def copy(self, source, out, rows=None):
        """Device to device, all or the first rows."""
        out[:rows].copy_(source[:rows])

    def host(self, array):
        """Its numbers in float64."""
        return array.detach().double().cpu().numpy()

    def seconds(self, call):
        """What the GPU takes for what a call puts on its stream."""
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self.torch.cuda._sleep(2_000_000)  # about a millisecond, until all is on the stream
        events[0].record()
        answer = call()
        events[1].record()
        events[1].synchronize()
        del answer  # alive up to here, so that its memory is not given to what follows
        return events[0].elapsed_time(events[1]) / 1e3

    def wait(self):
        """Until nothing is left to do."""
        self.torch.cuda.synchronize()

    def extra_bytes(self, call):
        """What is held at a call's peak; its answer too."""
        self.wait()
        self.torch.cuda.reset_peak_memory_stats()
        before = self.torch.cuda.memory_allocated()
        answer = call()
        self.wait()
        del answer
        return self.torch.cuda.max_memory_allocated() - before


class HostArray:
    """An array in host memory that says it were on a GPU."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        a = self.array
        return {"shape": a.shape, "typestr": a.dtype.str, "strides": a.strides, "version": 3,
                "data": (a.ctypes.data, False), "stream": None}  # fmt: skip

    device = "gpu:0"

    def __array_namespace__(self):
        return HostArray

    float16, float32, float64 = np.float16, np.float32, np.float64
    int64, uint8 = np.int64, np.uint8

    @staticmethod
    def empty(shape, *, dtype, device):
        """Zeros, so that two dry runs are alike."""
        return HostArray(np.zeros(shape, dtype))


class Dry:
    """Stands for a GPU: launches are counted, and that is all."""

    l2 = 1 << 16

    def __init__(self):
        self.launches = 0
        self.rng = np.random.default_rng(0)

    @contextlib.contextmanager
    def driver(self):
        """The package's driver, doing nothing, for as long as this lasts."""
        from fastxent.cuda import driver

        class Call:
            def __init__(self, kernel, grid, device, args):
                self.values = list(args)

            def launch(_, stream):
                self.launches += 1

        instead = {
            "Call": Call, "wait": lambda place: None, "is_capturing": lambda place: False,
            "current": lambda device: contextlib.nullcontext(), "capability": lambda device: (9, 0),
            "processors": lambda device: 100, "device_of": lambda address: 0,
            "report": lambda place: (2**63 - 1, 0), "address_of": id,
        }  # fmt: skip
        before = {name: getattr(driver, name) for name in instead}
        for name, value in instead.items():
            setattr(driver, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(driver, name, value)

    @property
    def torch(self):
        """There is none here."""
        raise RuntimeError("a dry run has no PyTorch")

    def facts(self):
        """None."""
        return {"name": "none: a dry run, whose numbers mean nothing"}

    def free(self):
        """Enough for small arrays."""
        return 1 << 24

    def logits(self, rows, classes, dtype):
        """NumPy knows no bfloat16: float16 is as large."""
        kind = np.float16 if SIZES[dtype] == 2 else np.float32
        return HostArray((3 * self.rng.standard_normal((rows, classes))).astype(kind))

    def labels(self, rows, classes):
        """Random classes."""
        return HostArray(self.rng.integers(0, classes, rows))

    def like(self, array):
        """Another array of the kind."""
        return HostArray(np.zeros_like(array.array))

    def copy(self, source, out, rows=None):
        """From host to host."""
        out.array[:rows] = source.array[:rows]

    def host(self, array):
        """Its numbers in float64."""
        return array.array.astype(np.float64)

    def seconds(self, call):
        """What Python takes."""
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def wait(self):
        """There is nothing to wait for."""

    def extra_bytes(self, call):
        """Not known."""
        call()
        return 0


# --- the sides of a race --------------------------------------------------------------------


class Arrays:
    """Sets of logits, labels, a buffer, and a copy of the logits that a gradient may lie over.

    Together they are several times what the caches hold, and each call takes the next set.
    """

    def __init__(self, gpu, rows, classes, dtype, small=False):
        size = rows * classes * SIZES[dtype]
        sets = 2 if small else min(64, max(2, -(-4 * gpu.l2 // (2 * size))))
        self.gpu, self.rows = gpu, rows
        self.logits = [gpu.logits(rows, classes, dtype) for _ in range(sets)]
        self.labels = [gpu.labels(rows, classes) for _ in range(sets)]
        self.buffers = [gpu.like(x) for x in self.logits]
        self.places = [gpu.like(x) for x in self.logits]
        for k in range(sets):
            self.renew(k)

    def __len__(self):
        return len(self.logits)

    def renew(self, k):
        """Logits again where their gradient may lie."""
        self.gpu.copy(self.logits[k], self.places[k])


def ours(arrays, job):
    """Calls of fastxent: each a function of the number of a set."""
    x, y, out, place = arrays.logits, arrays.labels, arrays.buffers, arrays.places
    plain = functools.partial(fx.cross_entropy, check_target=False)
    return {
        "cross_entropy": {
            "fastxent": lambda k: plain(x[k], y[k], grad_out=out[k]),
            "fastxent_in_place": lambda k: plain(place[k], y[k], grad_out=place[k]),
        },
        "loss": {"fastxent": lambda k: plain(x[k], y[k])},
        "softmax": {"fastxent": lambda k: fx.softmax(x[k], out=out[k])},
    }[job]  # fmt: skip


def torch_call(arrays, job, compiled):
    """The same by PyTorch, as its users write it: a loss in its graph, and its gradient."""
    torch = arrays.gpu.torch
    x, y = arrays.logits, arrays.labels

    def loss(x, y):
        return torch.nn.functional.cross_entropy(x, y)

    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, dynamic=False)

    def both(k):
        leaf = x[k].detach().requires_grad_()
        value = loss(leaf, y[k])
        return value.detach(), *torch.autograd.grad(value, leaf)

    def alone(k):
        with torch.no_grad():
            return loss(x[k], y[k])

    calls = {"cross_entropy": both, "loss": alone, "softmax": lambda k: torch.softmax(x[k], -1)}
    return calls[job]


def sides_of(arrays, job, peers):
    """Name -> call(k) of all that take turns, with a copy of as many bytes."""
    gpu, x, out = arrays.gpu, arrays.logits, arrays.buffers
    rows = copied_rows(job, arrays.rows)
    sides = {"copy": lambda k: gpu.copy(x[k], out[k], rows)} | ours(arrays, job)
    if "torch" in peers:
        sides["torch"] = later(lambda: torch_call(arrays, job, False))
    if "torch_compile" in peers and job == "cross_entropy":  # minutes go by in compiling it
        sides["torch_compile"] = later(lambda: torch_call(arrays, job, True))
    return sides


def later(make):
    """The call that `make` makes when it is first wanted, where its errors belong."""
    made = functools.cache(make)
    return lambda k: made()(k)


def copied_rows(job, rows):
    """How many rows a copy reads and writes that moves the bytes of a job."""
    return max(1, rows // 2) if ARRAYS[job] == 1 else rows


# --- whether it is right --------------------------------------------------------------------


def failure(error):
    """An error as a result holds it."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def wanted(gpu, x, y, job):
    """The parts of the answer in float64."""
    logits, labels = gpu.host(x), gpu.host(y).astype(np.int64)
    if job == "softmax":
        return (reference.softmax(logits),)
    loss, grad = reference.cross_entropy(logits, labels, return_grad=True)
    return (np.asarray(loss),) if job == "loss" else (np.asarray(loss), grad)


def check(gpu, classes, dtype, rows=5):
    """A row of results for every job and side of ours: its error, and whether that will do."""
    found = []
    for job in ARRAYS:
        arrays = Arrays(gpu, rows, classes, dtype, small=True)
        want = wanted(gpu, arrays.logits[0], arrays.labels[0], job)
        for name, call in ours(arrays, job).items():
            row = {"group": "check", "job": job, "peer": name, "rows": rows, "classes": classes,
                   "dtype": dtype}  # fmt: skip
            try:
                given = call(0)
                parts = given if isinstance(given, tuple) else (given,)
                error = answers.error(tuple(map(gpu.host, parts)), want)
                row |= {"error": float(f"{error:.3g}"), "right": bool(error <= TOLERANCE[dtype])}
            except Exception as problem:
                row |= {"note": failure(problem), "right": False}
            found.append(row)
    return found


# --- how fast it is -------------------------------------------------------------------------


def bytes_moved(job, peer, rows, classes, dtype):
    """What must be read and written at least."""
    if peer == "copy":
        return 2 * copied_rows(job, rows) * classes * SIZES[dtype]
    beside = 0 if job == "softmax" else rows * (8 + 4)  # a label, a loss
    return ARRAYS[job] * rows * classes * SIZES[dtype] + beside


def race(gpu, rows, classes, dtype, job, peers, rounds):
    """A row of results for each side: in a round each is timed once, on the next set."""
    base = {"group": "race", "job": job, "rows": rows, "classes": classes, "dtype": dtype}
    try:
        arrays = Arrays(gpu, rows, classes, dtype)
    except Exception as problem:
        return [base | {"peer": "fastxent", "note": failure(problem)}]
    sides, rows_of, seconds = sides_of(arrays, job, peers), {}, {}
    for name, call in sides.items():
        rows_of[name] = base | {"peer": name, "sets": len(arrays)}
        try:
            for k in range(2):
                call(k % len(arrays))
            extra = gpu.extra_bytes(functools.partial(call, 0))
            rows_of[name]["extra_mb"] = round(extra / 1e6, 3)
            seconds[name] = []
        except Exception as problem:
            rows_of[name]["note"] = failure(problem)
    turn = itertools.cycle(range(len(arrays)))
    for _ in range(rounds):
        for name in list(seconds):
            k = next(turn)
            try:
                seconds[name].append(gpu.seconds(functools.partial(sides[name], k)))
                if name == "fastxent_in_place":
                    arrays.renew(k)  # now, so that it has left the caches by its next turn
            except Exception as problem:
                rows_of[name]["note"] = failure(problem)
                del seconds[name]
    return finished(rows_of, seconds)


def finished(rows, seconds):
    """Medians and quartiles, speed, the share of the copy's, and how long the peers take for it."""
    for name, times in seconds.items():
        row = rows[name]
        shape = row["rows"], row["classes"], row["dtype"]
        row |= record.summary(times)
        moved = bytes_moved(row["job"], name, *shape)
        row["bytes"], row["gb_per_s"] = moved, rounded(moved / row["median"] / 1e9)
    for name in seconds:
        if "copy" in seconds:
            row, copy = rows[name], rows["copy"]
            share = record.ratio(copy, row) * row["bytes"] / copy["bytes"]
            row["share_of_copy"] = rounded(share)
        if name.startswith("fastxent"):
            others = [peer for peer in seconds if not peer.startswith("fastxent")]
            rows[name]["ratios"] = {p: rounded(record.ratio(rows[p], rows[name])) for p in others}
    return list(rows.values())


def rounded(value):
    """Four digits, as in the rest of a record."""
    return float(f"{value:.4g}")


def ceiling(gpu, size, rounds):
    """Bytes that a copy within the GPU's memory reads and writes in a second."""
    row = {"group": "ceiling", "peer": "copy", "bytes": 2 * size}
    try:
        source = gpu.logits(size // 4 // 1024, 1024, "float32")
        out = gpu.like(source)
        gpu.copy(source, out)
        times = [gpu.seconds(lambda: gpu.copy(source, out)) for _ in range(rounds)]
    except Exception as problem:
        return row | {"note": failure(problem)}
    row["bytes"] = 2 * (size // 4 // 1024 * 1024 * 4)
    row |= record.summary(times)
    return row | {"gb_per_s": rounded(row["bytes"] / row["median"] / 1e9)}


def numpy_on_the_host(classes, rounds):
    """NumPy's usual lines on as many rows as it is given; no larger shape is guessed from it."""
    rng, rows = np.random.default_rng(0), max(1, NUMPY_SIZE // classes)
    logits = 3 * rng.standard_normal((rows, classes), np.float32)
    call = numpy_idiom.cross_entropy(logits, rng.integers(0, classes, rows))
    call()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    row = {"group": "host", "job": "cross_entropy", "peer": "numpy_idiom", "rows": rows,
           "classes": classes, "dtype": "float32"} | record.summary(times)  # fmt: skip
    moved = bytes_moved("cross_entropy", "numpy_idiom", rows, classes, "float32")
    return row | {"bytes": moved, "gb_per_s": rounded(moved / row["median"] / 1e9)}


# --- how threads may lie on rows ------------------------------------------------------------


def plans_for(dtype, classes):
    """The plan that a call takes, then the others of the table that rows of this length allow."""
    from fastxent.cuda import launch
    from fastxent.cuda.elements import element
    from fastxent.cuda.groups import Plan
    from fastxent.records import Place

    item, older = element(dtype), launch.is_older(Place(0, 0))
    alone = launch.plan_of(item, classes, True, launch.LITTLE, older)
    most = launch.largest_cluster(Place(0, 0))
    plans = {launch.clustered(alone, item, classes, most): None, alone: None}
    for threads, vectors in launch.PLANS:
        held = min(vectors, max(1, launch.LITTLE // item.width))
        room = threads * held * item.width
        fits, edges = room >= classes, 2 * (item.width - 1)
        # What idles for the most part, or re-reads nearly all of a row, is nobody's choice.
        if threads >= edges and (room <= 16 * classes if fits else threads >= 128):
            rows = max(1, launch.SMALL_BLOCK // threads)
            blocks = launch.blocks_for(item, held, threads * rows, older)
            plans[Plan(threads, held, rows, True, not fits, blocks)] = None
        for cluster in launch.CLUSTERS:
            fits = classes <= cluster * room
            if cluster <= most and threads >= 256 and classes > room and (fits or cluster == 8):
                blocks = launch.blocks_for(item, held, threads, older)
                plans[Plan(threads, held, 1, True, not fits, blocks, cluster)] = None
    return list(plans)


@contextlib.contextmanager
def planned(plan):
    """Calls take this plan, whatever they would; those like one before, of this plan alone."""
    from fastxent.arrays import replay
    from fastxent.cuda import launch

    before = launch.plan_of, launch.clustered, launch._parts, replay._idle
    launch.plan_of = launch.clustered = lambda *_: plan
    launch._parts = lambda plan, block, n_classes, place: (1, n_classes)
    replay._idle = _known.setdefault(plan, {})
    try:
        yield
    finally:
        launch.plan_of, launch.clustered, launch._parts, replay._idle = before


_known = {}  # what is kept of calls, by the plan that they took


def plans(gpu, rows, classes, dtype, rounds):
    """Loss and gradient under each plan, by one launch: losses by row need no other."""
    if classes <= 32:
        return []
    base = {"group": "plans", "job": "cross_entropy", "rows": rows, "classes": classes,
            "dtype": dtype}  # fmt: skip
    try:
        arrays = Arrays(gpu, rows, classes, dtype)
        candidates = plans_for(dtype, classes)
    except Exception as problem:
        return [base | {"peer": "fastxent", "note": failure(problem)}]
    ask = {"reduction": "none", "check_target": False}
    found, seconds = {}, {}

    def call(plan, k):
        with planned(plan):
            x, y, out = (s[k] for s in (arrays.logits, arrays.labels, arrays.buffers))
            return fx.cross_entropy(x, y, grad_out=out, **ask)

    for number, plan in enumerate(candidates):
        name = f"{plan.threads}x{plan.vectors}" + "+tail" * plan.tail
        name += f" on {plan.cluster} blocks" if plan.cluster > 1 else ""
        found[name] = base | {"peer": name, "taken": number == 0}
        try:
            found[name] |= check_plan(gpu, classes, dtype, plan)
            call(plan, 0)
            gpu.wait()
            seconds[name] = plan, []
        except Exception as problem:
            found[name]["note"] = failure(problem)
    for k in range(rounds):
        for name, (plan, times) in list(seconds.items()):
            try:
                times.append(gpu.seconds(functools.partial(call, plan, k % len(arrays))))
            except Exception as problem:
                found[name]["note"] = failure(problem)
                del seconds[name]
    finished(found, {name: times for name, (_, times) in seconds.items()})
    for name in seconds:
        best = min(found[other]["median"] for other in seconds)
        found[name]["of_best"] = rounded(best / found[name]["median"])
    return list(found.values())


def check_plan(gpu, classes, dtype, plan):
    """Whether a plan's answer is right, on a few rows."""
    arrays = Arrays(gpu, 5, classes, dtype, small=True)
    x, y, out = arrays.logits[0], arrays.labels[0], arrays.buffers[0]
    with planned(plan):
        _, grad = fx.cross_entropy(x, y, grad_out=out, reduction="sum", check_target=False)
    _, want = reference.cross_entropy(
        gpu.host(x), gpu.host(y).astype(np.int64), reduction="sum", return_grad=True
    )
    error = answers.error((gpu.host(grad),), (want,))
    return {"error": float(f"{error:.3g}"), "right": bool(error <= TOLERANCE[dtype])}


# --- what Python costs ----------------------------------------------------------------------


def launch_path(gpu, peers, batches):
    """Microseconds until a small call is back, the GPU being left to itself."""
    rows, classes = SMALL
    arrays = Arrays(gpu, rows, classes, "float32", small=True)
    sides = {f"{name}, {job}": functools.partial(call, 0)
             for job in ARRAYS for name, call in ours(arrays, job).items()}  # fmt: skip
    x, y = arrays.logits[0], arrays.labels[0]
    sides["fastxent, labels checked"] = lambda: fx.cross_entropy(x, y, return_grad=True)
    if "torch" in peers:
        sides["torch, cross_entropy"] = functools.partial(
            later(lambda: torch_call(arrays, "cross_entropy", False)), 0
        )
        sides["fastxent, in torch's graph"] = lambda: in_graph(arrays)
    sides |= {f"cupy, {name}": call for name, call in cupy_sides().items()}
    found = []
    for name, call in sides.items():
        row = {"group": "launch", "peer": name, "rows": rows, "classes": classes}
        try:
            times = [host_seconds(gpu, call, 50) for _ in range(batches + 1)][1:]
            row |= record.summary(times)
            row["microseconds"] = rounded(row["median"] * 1e6)
        except Exception as problem:
            row["note"] = failure(problem)
        found.append(row)
    return found


def in_graph(arrays):
    """Forward and backward through fastxent's node of autograd."""
    leaf = arrays.logits[0].detach().requires_grad_()
    loss = fx.cross_entropy(leaf, arrays.labels[0], check_target=False)
    return arrays.gpu.torch.autograd.grad(loss, leaf)


def cupy_sides():
    """A small call on CuPy's arrays, where there is CuPy."""
    try:
        cupy = importlib.import_module("cupy")
        rng = np.random.default_rng(0)
        x = cupy.asarray(rng.standard_normal(SMALL, np.float32))
        y, out = cupy.asarray(rng.integers(0, SMALL[1], SMALL[0])), cupy.empty_like(x)
    except Exception as problem:
        error = problem

        def missing():
            raise error

        return {"cross_entropy": missing}
    return {
        "cross_entropy": lambda: fx.cross_entropy(x, y, check_target=False, grad_out=out),
        "softmax": lambda: fx.softmax(x, out=out),
    }


def host_seconds(gpu, call, times):
    """Seconds a call by the clock, of a few that the stream has room for."""
    gpu.wait()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    seconds = (time.perf_counter() - begin) / times
    gpu.wait()
    return seconds


# --- a run ----------------------------------------------------------------------------------


def shapes(args, gpu, dtype):
    """Rows and classes: as asked for; where only classes are, rows that fill a gigabyte."""
    size = min(1 << 30, gpu.free() // 16)
    if args.quick or args.dry:
        size = min(size, 1 << 21)
    asked = args.shapes or [*map(str, CLASSES), *(f"{n}x{c}" for n, c in FEW_ROWS)]
    for text in asked:
        rows, _, classes = text.rpartition("x")
        yield int(rows) if rows else max(1, size // SIZES[dtype] // int(classes)), int(classes)


def version(package):
    """A package's version; CuPy has a name for every CUDA."""
    names = [package] + [f"{package}-cuda{n}x" for n in (13, 12)] * (package == "cupy")
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def measure(args, gpu, run):
    """Fill a record, and write it after each step, so that a run cut short is not lost."""
    rounds, steps = (3 if args.quick or args.dry else args.rounds), []
    for dtype in args.dtypes:
        found = list(dict.fromkeys(shapes(args, gpu, dtype)))
        classes = list(dict.fromkeys(c for _, c in found))
        steps += [(0, functools.partial(check, gpu, c, dtype)) for c in classes]
        for (n, c), job in itertools.product(found, ARRAYS):
            peers = [p for p in args.peers if p != "numpy_idiom"]
            steps.append((1, functools.partial(race, gpu, n, c, dtype, job, peers, rounds)))
        steps += [(2, functools.partial(plans, gpu, n, c, dtype, rounds)) for n, c in found]
        if dtype == "float32" and "numpy_idiom" in args.peers:
            steps += [(3, lambda c=c: [numpy_on_the_host(c, 3)]) for c in classes]
    size = min(1 << (22 if args.quick or args.dry else 32), gpu.free() // 3)
    steps.append((1, lambda: [ceiling(gpu, size // 2, rounds)]))
    steps.append((1, lambda: launch_path(gpu, args.peers, rounds)))
    for _, step in sorted(steps, key=lambda pair: pair[0]):  # first what is right, then how fast
        gpu.free()
        begin = time.perf_counter()
        try:
            rows = step()
        except Exception as problem:  # what comes next may still run
            rows = [{"group": "step", "peer": str(step), "note": failure(problem), "right": False}]
        run["results"] += rows
        record.save(run, args.out)
        print(f"{said(rows)} ({time.perf_counter() - begin:.1f} s)", file=sys.stderr, flush=True)


def said(rows):
    """What the first of some results is about."""
    keys = ("group", "job", "rows", "classes", "dtype")
    return " ".join(str(row[key]) for row in rows[:1] for key in keys if key in row)


def table(results):
    """What was measured, short: ours beside the peers, the plans that win, what Python costs."""
    for row in results:
        if row["group"] == "ceiling" and "gb_per_s" in row:
            yield f"copy of {row['bytes'] / 1e9:.1f} GB: {row['gb_per_s']:.0f} GB/s"
    shape = f"{'rows':>9}{'classes':>9}"
    yield f"\n{'side':<34}{shape} {'type':<9}{'ms':>9}{'GB/s':>7}{'copy':>6}  peers' time / ours"
    for row in results:
        if row["group"] == "race" and row["peer"].startswith("fastxent") and "median" in row:
            ratios = (f"{p} {r:.2f}" for p, r in row["ratios"].items() if p != "copy")
            yield (
                f"{row['peer'] + ', ' + row['job']:<34}{row['rows']:>9}{row['classes']:>9} "
                f"{row['dtype']:<9}{row['median'] * 1e3:>9.3f}{row['gb_per_s']:>7.0f}"
                f"{row.get('share_of_copy', 0):>6.0%}  {', '.join(ratios)}"
            )
    yield f"\n{'plans':<10}{shape}  share of the best's speed, * the one that is taken"
    heats = {}
    for row in results:
        if row["group"] == "plans" and "of_best" in row:
            heats.setdefault((row["dtype"], row["rows"], row["classes"]), []).append(row)
    for (dtype, rows, classes), heat in heats.items():
        heat.sort(key=lambda row: -row["of_best"])
        ranks = (f"{r['peer']}{'*' * r['taken']} {r['of_best']:.0%}" for r in heat)
        yield f"{dtype:<10}{rows:>9}{classes:>9}  {', '.join(ranks)}"
    for title, group, unit in (
        ("Python's part of a call, µs", "launch", 1e6), ("on the host, ms", "host", 1e3),
    ):  # fmt: skip
        yield f"\n{title}"
        for row in results:
            if row["group"] == group and "median" in row:
                shape = f"{row['rows']}x{row['classes']}"
                yield f"{row['peer']:<34}{shape:>14} {row['median'] * unit:>9.1f}"
    for row in results:
        if "note" in row or row.get("right") is False:
            wrong = row.get("note", f"wrong by {row.get('error')}")
            yield f"failed: {said([row])} {row['peer']}: {wrong}"


def main(arguments=None):
    """Check, measure, write; 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="small arrays, numbers of no worth")
    parser.add_argument("--dry", action="store_true", help="without a GPU, computing nothing")
    parser.add_argument("--shapes", nargs="+", help="classes, or rows and classes as 16x128256")
    parser.add_argument("--dtypes", nargs="+", choices=SIZES, default=["float32", "bfloat16"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args(arguments)
    gpu = Dry() if args.dry else Gpu()
    run = record.new(fx.get_num_threads())
    run |= {"dry": args.dry, "gpu": gpu.facts(), "rounds": args.rounds}
    run["versions"] = {name: found for name in PACKAGES if (found := version(name))}
    with gpu.driver() if args.dry else contextlib.nullcontext():
        measure(args, gpu, run)
    if args.dry:
        run["launches"] = gpu.launches
        record.save(run, args.out)
    print("\n".join(table(run["results"])))
    wrong = [row for row in run["results"] if row.get("right") is False]
    return 1 if wrong and not args.dry else 0


if __name__ == "__main__":
    sys.exit(main())
