"""What `info` tells, as data: versions, CPU, threads, cache and GPUs of this process."""

import importlib.metadata
import os
import platform
from typing import Any

import fastxent as fx
from fastxent import kernel_files
from fastxent.bench import record
from fastxent.cpu import threads

REQUIRED = ("numpy", "numba", "llvmlite")
# By the names they are installed under: arrays, GPUs, what commands and peers use.
OPTIONAL = (
    "torch", "jax", "cupy-cuda12x", "cupy-cuda13x", "dask", "ml_dtypes", "numba-cuda", "cuda-core",
    "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12",
    "nvidia-nvjitlink-cu12", "distributed", "xgboost", "xgboost-cpu", "lightgbm", "scipy",
    "scikit-learn", "optax", "matplotlib", "rich",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """All of it, as `info --json` prints it."""
    return {
        "fastxent": fx.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "libraries": versions(REQUIRED + OPTIONAL),
        "cpu": cpu(),
        "threads": thread_count(),
        "cache": cache(),
        "cuda": cuda(),
    }


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed; none is imported."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu() -> dict[str, Any]:
    """Its model, its name in LLVM, and what the kernels use of it."""
    from fastxent.cpu.target import target

    used = target()
    return {
        "model": record.cpu()["model"],
        "cpus": os.cpu_count(),
        "llvm_name": used.cpu,
        "features": used.features,
        "vector_bytes": used.vector_bytes,
        "register_bytes": used.register_bytes,
    }


def thread_count() -> dict[str, Any]:
    """How many a call takes, what decides that, every limit that was found, and tensors' own."""
    chosen = threads.chosen()
    return {
        "used": chosen.threads,
        "source": chosen.source,
        "limits": [limit._asdict() for limit in threads.limits()],
        "tensors": "torch.get_num_threads()" if threads.automatic() else None,
    }


def cache() -> dict[str, Any]:
    """Where compiled kernels are kept, which variable says so, and what is there."""
    place, variable = kernel_files.location()
    sizes = kernel_files.held()
    obstacle = kernel_files.obstacle()
    return {
        "path": None if place is None else str(place),
        "variable": variable or None,
        "files": len(sizes),
        "bytes": sum(sizes),
        "writable": not obstacle,
        "obstacle": obstacle or None,
    }


def cuda() -> dict[str, Any]:
    """The GPUs, and what is missing: for all of them, or for one of them."""
    found: dict[str, Any] = {"devices": [], "driver_version": None, "missing": None}
    try:
        # Raises ImportError where numba-cuda is not installed, and says what to install.
        from fastxent.cuda import driver, jit

        found["driver_version"] = ".".join(map(str, driver.version()))
        for gpu in driver.gpus():
            found["devices"].append({
                "name": gpu.name,
                "compute_capability": list(gpu.capability),
                "memory_bytes": gpu.memory,
                "missing": jit.obstacle(gpu.capability) or None,
            })  # fmt: skip
        if not found["devices"]:
            found["missing"] = "the CUDA driver shows no GPU to this process"
    except Exception as missing:  # whatever is wrong with CUDA is what is asked for
        found["missing"] = str(missing)
    return found
