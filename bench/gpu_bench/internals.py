"""Access to the package's internals: kernels collected, compiled, plans listed, one plan forced.

No other file of the benchmark imports `fastxent.cuda` or `fastxent.arrays`.
"""

import contextlib
from types import SimpleNamespace

_cached_by_plan = {}  # thread plan -> cache of launch plans


@contextlib.contextmanager
def counted_launches(counter, capability):
    """A context in which the driver launches nothing and counts in `counter.launches`.

    The kernels that a GPU of this compute capability would launch come into `counter.kernels`.
    """
    from fastxent.arrays import interface
    from fastxent.cuda import driver
    from fastxent.device_array import BFLOAT16

    class LaunchedKernel:
        def __init__(self, kernel, grid, device, arguments):
            self.values = list(arguments)
            counter.kernels.setdefault(kernel.name, kernel)

        def launch(self, stream):
            counter.launches += 1

    described = interface._described

    def described_with_bfloat16(value, attributes):
        view = described(value, attributes)
        view.dtype = BFLOAT16 if view.dtype.kind == "V" else view.dtype
        return view

    stand_ins = {
        "LaunchedKernel": LaunchedKernel, "wait": lambda place: None,
        "is_capturing": lambda place: False,
        "current": lambda device: contextlib.nullcontext(), "capability": lambda device: capability,
        "processors": lambda device: counter.processors, "device_of": lambda address: 0,
        "report": lambda place: (2**63 - 1, 0), "address_of": id,
    }  # fmt: skip
    before = {name: getattr(driver, name) for name in stand_ins}
    for name, value in stand_ins.items():
        setattr(driver, name, value)
    interface._described = described_with_bfloat16
    _forget()
    try:
        yield
    finally:
        _forget()
        interface._described = described
        for name, value in before.items():
            setattr(driver, name, value)


def _forget():
    """Empty the caches of launch plans, which hold kernels of the stand-in or of the driver."""
    from fastxent.arrays import plans

    plans.clear()
    _cached_by_plan.clear()


def compiled(kernel, capability):
    """Compile a kernel into the cache on disk, unless it is there."""
    from numba.cuda import dispatcher

    from fastxent.cuda.jit import machine_code

    # Numba asks for the GPU of this machine here, although the result does not depend on it.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    machine_code(kernel, capability)


def plans_for(dtype, classes):
    """The plan that a call uses, then the other plans that rows of this length allow."""
    from fastxent.cuda import thread_plans
    from fastxent.cuda.elements import element
    from fastxent.cuda.groups import ThreadPlan
    from fastxent.records import Place

    item, older = element(dtype), thread_plans.is_older(Place(0, 0))
    alone = thread_plans.plan_of(item, classes, True, thread_plans.MAX_PER_THREAD, older)
    most = thread_plans.largest_cluster(Place(0, 0))
    plans = {thread_plans.clustered(alone, item, classes, most): None, alone: None}
    for threads, vectors in thread_plans.PLANS:
        per_thread = min(vectors, max(1, thread_plans.MAX_PER_THREAD // item.width))
        room = threads * per_thread * item.width
        fits, edges = room >= classes, 2 * (item.width - 1)
        # Leave out plans in which most threads idle or nearly all of a row is read twice.
        if threads >= edges and (room <= 16 * classes if fits else threads >= 128):
            rows = max(1, thread_plans.SMALL_BLOCK // threads)
            blocks = thread_plans.blocks_for(item, per_thread, threads * rows, older)
            plans[ThreadPlan(threads, per_thread, rows, True, not fits, blocks)] = None
        for cluster in thread_plans.CLUSTERS:
            fits = classes <= cluster * room
            if cluster <= most and threads >= 256 and classes > room and (fits or cluster == 8):
                blocks = thread_plans.blocks_for(item, per_thread, threads, older)
                plan = ThreadPlan(threads, per_thread, 1, True, not fits, blocks, cluster=cluster)
                plans[plan] = None
    return list(plans)


@contextlib.contextmanager
def forced_plan(plan):
    """A context in which calls use this thread plan, with a cache of launch plans for it alone."""
    from fastxent.arrays import plans
    from fastxent.cuda import thread_plans as module

    before = module.plan_of, module.clustered, module.parts_of, plans._plans
    module.plan_of = module.clustered = lambda *_: plan
    module.parts_of = lambda plan, item, n_rows, n_classes, place: (1, n_classes)
    plans._plans = _cached_by_plan.setdefault(plan, {})
    try:
        yield
    finally:
        module.plan_of, module.clustered, module.parts_of, plans._plans = before
