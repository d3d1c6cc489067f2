"""Collect the facts for `info`: versions, CPU, threads, cache and GPUs of this process."""

import contextlib
import importlib.metadata
import os
import platform
from typing import Any

import fastxent as fx
from fastxent import kernel_files
from fastxent.bench import record
from fastxent.cpu import threads

REQUIRED = ("numpy", "numba", "llvmlite")
# Distribution names: array libraries, GPU packages, packages of the commands and the peers.
OPTIONAL = (
    "torch", "jax", "cupy-cuda12x", "cupy-cuda13x", "dask", "ml_dtypes", "numba-cuda", "cuda-core",
    "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12",
    "nvidia-nvjitlink-cu12", "distributed", "xgboost", "xgboost-cpu", "lightgbm", "scipy",
    "scikit-learn", "optax", "matplotlib", "rich",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """All facts, as `info --json` prints them."""
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
    """Versions of the installed distributions; none is imported."""
    installed = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def cpu() -> dict[str, Any]:
    """CPU model, its name in LLVM, and the features that the kernels use."""
    from fastxent.cpu.target import target

    compiled_for = target()
    return {
        "model": record.cpu()["model"],
        "cpus": os.cpu_count(),
        "llvm_name": compiled_for.cpu,
        "features": compiled_for.features,
        "vector_bytes": compiled_for.vector_bytes,
        "register_bytes": compiled_for.register_bytes,
    }


def thread_count() -> dict[str, Any]:
    """The number of threads of a call, its source, all limits, and the limit for tensors."""
    chosen = threads.chosen()
    return {
        "used": chosen.threads,
        "source": chosen.source,
        "limits": [limit._asdict() for limit in threads.limits()],
        "tensors": "torch.get_num_threads()" if threads.automatic() else None,
    }


def cache() -> dict[str, Any]:
    """The cache folder, the variable that sets it, and its files."""
    place, variable = kernel_files.location()
    sizes = kernel_files.file_sizes()
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
    """The GPUs, and what is missing to use all or one of them."""
    facts: dict[str, Any] = {"devices": [], "driver_version": None, "missing": None}
    try:
        # Raises ImportError if numba-cuda is missing, with a message that says what to install.
        from fastxent.cuda import driver, jit

        facts["driver_version"] = ".".join(map(str, driver.version()))
        for gpu in driver.gpus():
            facts["devices"].append({
                "name": gpu.name,
                "compute_capability": list(gpu.capability),
                "memory_bytes": gpu.memory,
                "missing": jit.obstacle(gpu.capability) or None,
            })  # fmt: skip
        if not facts["devices"]:
            facts["missing"] = "the CUDA driver shows no GPU to this process"
    except Exception as missing:  # any CUDA error is part of the report
        facts["missing"] = str(missing)
    return facts
