"""Dask's distributed scheduler: two worker processes, of which one is killed in the middle."""

import os
import signal
import time

import numpy as np
import pytest

import fastxent as fx

da = pytest.importorskip("dask.array", reason="dask.array is optional: pip install 'dask[array]'")
distributed = pytest.importorskip("distributed", reason="is optional: pip install distributed")

ROWS, CLASSES, BLOCK = 3000, 60, 100
SECONDS = 180  # in which each wait ends, or the test fails


@pytest.fixture(scope="module")
def compiled():
    """The kernels are in the cache: no wait is for a compiler, in whichever process."""
    x, y = np.zeros((2, CLASSES)), np.zeros(2, int)
    for by in (CLASSES, 20, 15):
        lazy = fx.cross_entropy(
            da.from_array(x, (2, by)), y, label_smoothing=0.1, return_grad=True, return_lse=True
        )
        da.compute(*lazy, *fx.cross_entropy(da.from_array(x, (2, by)), y, return_grad=True))


@pytest.fixture(scope="module")
def client(compiled, environment):
    """A client of two processes of one thread each, which are gone afterwards."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", memory_limit=None, silence_logs="CRITICAL",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        client.wait_for_workers(2, timeout=SECONDS)
        yield client


def slow(block):
    """The block, later: so that there is a middle."""
    time.sleep(0.05)
    return block


def computed(client, lazy):
    """The arrays of lazy ones, on the cluster, in bounded time."""
    return gathered(client, client.compute(list(lazy)))


def gathered(client, futures):
    """What futures hold; a TimeoutError if they take too long."""
    distributed.wait(futures, timeout=SECONDS)
    return client.gather(futures)


@pytest.fixture
def rows(rng):
    """Logits and labels."""
    return rng.standard_normal((ROWS, CLASSES)), rng.integers(0, CLASSES, ROWS)


@pytest.mark.parametrize("by", [CLASSES, 15], ids=["rows", "classes"])
def test_two_processes_agree_with_numpy(client, rows, by):
    """Loss, gradient and lse; a bad label is an IndexError here too."""
    x, y = rows
    how = dict(return_grad=True, return_lse=True, label_smoothing=0.1)
    lazy = fx.cross_entropy(da.from_array(x, (1000, by)), y, **how)
    for got, want in zip(computed(client, lazy), fx.cross_entropy(x, y, **how), strict=True):
        np.testing.assert_allclose(got, want, 1e-12, 1e-15)
    y[2345] = CLASSES
    with pytest.raises(IndexError, match=r"target\[2345\] must be a class in 0 .. 59"):
        computed(client, [fx.cross_entropy(da.from_array(x, (1000, by)), y)])


def test_a_killed_worker_loses_nothing(client, rows):
    """One of two processes is killed while they compute; loss and gradient are those of NumPy."""
    x, y = rows
    lazy = da.from_array(x, (BLOCK, 20)).map_blocks(slow, dtype=x.dtype, meta=np.empty((0, 0)))
    before = client.run(os.getpid)
    futures = client.compute(list(fx.cross_entropy(lazy, y, return_grad=True)))
    until = time.monotonic() + SECONDS
    # The middle: each has finished tasks, and has tasks in hand.
    while not (all(client.has_what().values()) and all(client.processing().values())):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not any(future.done() for future in futures)
    killed = next(iter(before.values()))
    os.kill(killed, signal.SIGKILL)
    expected = fx.cross_entropy(x, y, return_grad=True)
    for got, want in zip(gathered(client, futures), expected, strict=True):
        np.testing.assert_allclose(got, want, 1e-12, 1e-15)
    client.wait_for_workers(2, timeout=SECONDS)  # the nanny starts another
    after = set(client.run(os.getpid).values())
    assert killed not in after
    assert len(after) == 2
