"""CUDA in a forked process, with a mock driver in place of a GPU."""

from importlib.util import find_spec

import pytest
from scripts import python

REFUSED = "CUDA cannot be used in a process that was forked after its first use: start processes"
AS_IF_THERE_WERE_ONE = """
    import os
    from cuda.bindings import driver as bindings
    from fastxent.cuda import driver
    bindings.cuInit = lambda flags: (bindings.CUresult.CUDA_SUCCESS,)
    bindings.cuStreamSynchronize = lambda stream: (bindings.CUresult.CUDA_SUCCESS,)
    driver._is_current = lambda device: driver._bindings() is not None

    def use():
        try:
            driver.wait(driver.Place(0, 1))
            print("waited", flush=True)
        except RuntimeError as error:
            print(error, flush=True)

"""


@pytest.fixture(autouse=True)
def bindings():
    if not find_spec("cuda") or not find_spec("cuda.bindings"):
        pytest.skip("needs numba-cuda: pip install 'fastxent[cuda13]'")


def run(text):
    """The lines that a process without the simulator prints."""
    nothing = dict.fromkeys(["NUMBA_ENABLE_CUDASIM", "NUMBA_DISABLE_JIT"])
    return python(AS_IF_THERE_WERE_ONE + text, **nothing).splitlines()


@pytest.mark.parametrize("depth", [1, 2])
def test_in_a_process_forked_after_the_first_use(depth, count):
    """A child, and a child's child, get an error that says what to do."""
    lines = run(f"""
    use()
    for _ in range({depth}):
        if os.fork():
            os.wait()
            os._exit(0)
    use()
    """)
    assert lines[0] == "waited" and lines[1].startswith(REFUSED)
    count("cuda", 1, 1)


def test_in_a_process_forked_before(count):
    """If the parent has not used CUDA the child can, and then the parent."""
    lines = run("""
    if os.fork():
        os.wait()
    use()
    """)
    assert lines == ["waited"] * 2
    count("cuda", 1, 1)


def test_in_a_process_forked_by_another_library(count):
    """Which had used CUDA before: the driver says that it is not initialised."""
    lines = run("""
    bindings.cuInit = lambda flags: (bindings.CUresult.CUDA_ERROR_NOT_INITIALIZED,)
    use()
    """)
    assert lines[0].startswith(REFUSED)
    count("cuda", 1, 1)
