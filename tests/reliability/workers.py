"""Worker processes of every kind after a parallel call in the parent; prints the right answers.

Run by test_processes.py in a process of its own: `workers.py KIND`. Spawned workers import it.
"""

import concurrent.futures
import json
import multiprocessing
import os
import sys
import warnings

import numpy as np

import fastxent as fx

WORKERS, TASKS = 3, 12


def call(seed):
    """A parallel call: bits of the loss, and of one element of the gradient."""
    rng = np.random.default_rng(seed % 2)
    logits = rng.standard_normal((9000, 100), dtype=np.float32)
    loss, grad = fx.cross_entropy(logits, rng.integers(0, 100, 9000), return_grad=True)
    return float(loss), float(grad[17, 5])


def parallel(seed):
    """A parallel call in a process that may be limited to one thread."""
    with fx.num_threads(2):
        return call(seed)


def by_pool(method):
    """multiprocessing.Pool."""
    with multiprocessing.get_context(method).Pool(WORKERS) as pool:
        return pool.map_async(parallel, range(TASKS)).get(timeout=100)


def by_executor():
    """concurrent.futures, by the default way to start a process."""
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        return list(pool.map(parallel, range(TASKS), timeout=100))


def by_joblib():
    """joblib's loky, as scikit-learn uses it."""
    import joblib

    return joblib.Parallel(WORKERS, timeout=100)(joblib.delayed(parallel)(k) for k in range(TASKS))


def in_child(call):
    """The numbers that a call gives in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, json.dumps(call()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return tuple(json.loads(os.read(read, 1000)))


def by_grandchild(seed):
    """A child that makes a parallel call and then has a child of its own."""
    return in_child(lambda: parallel(seed) and in_child(lambda: parallel(seed)))


def by_loader():
    """PyTorch's DataLoader with workers that call fastxent."""
    import torch

    class Losses(torch.utils.data.Dataset):
        def __len__(self):
            return TASKS

        def __getitem__(self, k):
            return torch.tensor(parallel(k), dtype=torch.float64)

    torch.nn.functional.softmax(torch.zeros(2), 0)
    loader = torch.utils.data.DataLoader(
        Losses(), num_workers=WORKERS, timeout=100, multiprocessing_context="fork"
    )
    return [tuple(row.tolist()) for batch in loader for row in batch]


KINDS = {
    "fork": lambda: by_pool("fork"),
    "forkserver": lambda: by_pool("forkserver"),
    "spawn": lambda: by_pool("spawn"),
    "executor": by_executor,
    "joblib": by_joblib,
    "grandchildren": lambda: list(map(by_grandchild, range(TASKS))),
    "loader": by_loader,
}

if __name__ == "__main__":
    # Newer Pythons warn of any fork in a process with threads.
    warnings.filterwarnings("ignore", "(?s).*fork.*", DeprecationWarning)
    want = [parallel(0), parallel(1)]
    print(sum(got == want[k % 2] for k, got in enumerate(KINDS[sys.argv[1]]())))
