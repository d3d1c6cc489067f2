"""The steps of a run: the lines of the schedule for every type, shape and job."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from gpu_bench.cases import filled, parsed
from gpu_bench.checks import check, checked
from gpu_bench.plans import plans
from gpu_bench.python_cost import launch_path
from gpu_bench.races import ceiling, numpy_on_the_host, race
from gpu_bench.schedule import TABLE


class Step(NamedTuple):
    """A step, and about how many kernels of fastxent and graphs of PyTorch it compiles."""

    label: str
    group: str
    call: Callable[[], list[dict[str, Any]]]
    kernels: int = 0
    graphs: int = 0


def steps(args, gpu):
    """All steps in order; each is included once, where it occurs first."""
    maker, found = _Maker(args, gpu), {}
    for step in itertools.chain.from_iterable(map(maker.steps_of, TABLE)):
        found.setdefault(step.label, step)
    return list(found.values())


class _Maker:
    """Makes the steps of a line; the other methods are named after the groups."""

    def __init__(self, args, gpu):
        self.gpu, self.free, self.dtypes, self.shapes = gpu, gpu.free(), args.dtypes, args.shapes
        self.small = args.quick or args.dry
        self.rounds = 3 if self.small else args.rounds
        self.all_peers = args.peers
        self.peers = [peer for peer in args.peers if peer != "numpy_idiom"]

    def steps_of(self, line):
        """The steps of a line: by shape, then type, then job."""
        if not line.shapes:
            return [getattr(self, line.group)()]
        shapes = [parsed(text) for text in self.shapes] if self.shapes else line.shapes
        if line.group == "host":
            return [self.host(shape) for shape in shapes if "numpy_idiom" in self.all_peers]
        size = min(1 << (21 if self.small else 30), self.free // 16)
        made, least = [], self.gpu.processors // 2 + 1
        for shape, dtype, job in itertools.product(shapes, self.dtypes, line.jobs):
            if line.group == "check":
                full = checked(shape, least)
            else:
                full = filled(shape, dtype, size, self.small, least)
            made.append(getattr(self, line.group)(full, dtype, job))
        return made

    def check(self, shape, dtype, job):
        call = functools.partial(check, self.gpu, shape, dtype, job)
        return Step(_label("check", job, shape, dtype), "check", call, kernels=1)

    def race(self, shape, dtype, job):
        call = functools.partial(race, self.gpu, shape, dtype, job, self.peers, self.rounds)
        graphs = int("torch_compile" in self.peers)
        return Step(_label("race", job, shape, dtype), "race", call, graphs=graphs)

    def plans(self, shape, dtype, job):
        call = functools.partial(plans, self.gpu, shape, dtype, self.rounds)
        return Step(_label("plans", job, shape, dtype), "plans", call, kernels=8)

    def host(self, shape):
        return Step(f"host {shape.classes}", "host", lambda: [numpy_on_the_host(shape.classes, 3)])

    def launch(self):
        call = functools.partial(launch_path, self.gpu, self.all_peers, self.rounds)
        return Step("launch", "launch", call, kernels=3)

    def ceiling(self):
        size = min(1 << (22 if self.small else 32), self.free // 3)
        return Step("ceiling", "ceiling", lambda: [ceiling(self.gpu, size // 2, self.rounds)])


def _label(group, job, shape, dtype):
    image = f" in images of {shape.image}x{shape.image}" if shape.image else ""
    return f"{group} {job} {shape.rows}x{shape.classes}{image} {dtype}"
