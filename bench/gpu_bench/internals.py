"""Access to the package's internals: launches counted, plans listed, one plan forced.

No other file of the benchmark imports `fastxent.cuda` or `fastxent.arrays`.
"""

import contextlib

_calls_by_plan = {}  # plan -> cache of recorded calls


@contextlib.contextmanager
def counted_launches(counter):
    """A context in which the driver launches nothing and counts in `counter.launches`."""
    from fastxent.cuda import driver

    class Call:
        def __init__(self, kernel, grid, device, args):
            self.values = list(args)

        def launch(self, stream):
            counter.launches += 1

    stand_ins = {
        "Call": Call, "wait": lambda place: None, "is_capturing": lambda place: False,
        "current": lambda device: contextlib.nullcontext(), "capability": lambda device: (9, 0),
        "processors": lambda device: 100, "device_of": lambda address: 0,
        "report": lambda place: (2**63 - 1, 0), "address_of": id,
    }  # fmt: skip
    before = {name: getattr(driver, name) for name in stand_ins}
    for name, value in stand_ins.items():
        setattr(driver, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(driver, name, value)


def plans_for(dtype, classes):
    """The plan that a call uses, then the other plans that rows of this length allow."""
    from fastxent.cuda import launch
    from fastxent.cuda.elements import element
    from fastxent.cuda.groups import Plan
    from fastxent.records import Place

    item, older = element(dtype), launch.is_older(Place(0, 0))
    alone = launch.plan_of(item, classes, True, launch.LITTLE, older)
    most = launch.largest_cluster(Place(0, 0))
    plans = {launch.clustered(alone, item, classes, most): None, alone: None}
    for threads, vectors in launch.PLANS:
        per_thread = min(vectors, max(1, launch.LITTLE // item.width))
        room = threads * per_thread * item.width
        fits, edges = room >= classes, 2 * (item.width - 1)
        # Leave out plans in which most threads idle or nearly all of a row is read twice.
        if threads >= edges and (room <= 16 * classes if fits else threads >= 128):
            rows = max(1, launch.SMALL_BLOCK // threads)
            blocks = launch.blocks_for(item, per_thread, threads * rows, older)
            plans[Plan(threads, per_thread, rows, True, not fits, blocks)] = None
        for cluster in launch.CLUSTERS:
            fits = classes <= cluster * room
            if cluster <= most and threads >= 256 and classes > room and (fits or cluster == 8):
                blocks = launch.blocks_for(item, per_thread, threads, older)
                plans[Plan(threads, per_thread, 1, True, not fits, blocks, cluster)] = None
    return list(plans)


@contextlib.contextmanager
def forced_plan(plan):
    """A context in which calls use this plan, with a cache of recorded calls for it alone."""
    from fastxent.arrays import replay
    from fastxent.cuda import launch

    before = launch.plan_of, launch.clustered, launch._parts, replay._idle
    launch.plan_of = launch.clustered = lambda *_: plan
    launch._parts = lambda plan, block, n_classes, place: (1, n_classes)
    replay._idle = _calls_by_plan.setdefault(plan, {})
    try:
        yield
    finally:
        launch.plan_of, launch.clustered, launch._parts, replay._idle = before
