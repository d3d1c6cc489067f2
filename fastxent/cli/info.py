"""`info`: versions, CPU, threads, cache and GPUs, as text or JSON."""

import argparse
from collections.abc import Iterator
from typing import Any

from fastxent.cli import machine
from fastxent.cli.options import add_output
from fastxent.cli.output import show_facts, show_json

SUMMARY = "show versions, CPU, threads, cache and GPUs, for issue reports"

DESCRIPTION = """\
Shows what fastxent detects on this machine. Include the output in issues.

  CPU      `vectors` is the size of the kernels' vectors and the number of
           registers that each takes; fewer registers are faster.
  Threads  the number of threads of a call, and the limit that sets it: the
           smallest, unless the program sets a number. A call on PyTorch tensors
           uses at most as many as PyTorch, unless FASTXENT_NUM_THREADS or the
           program sets a number.
  Cache    the folder of compiled kernels. If it is not writable, each process
           compiles for seconds; this is not an error.
  CUDA     the GPUs, or what is missing to use them, and how to fix it.

Nothing is compiled or changed for the CPU, and no GPU memory is used.
"""

EXAMPLES = """\
examples:
  %(prog)s
  %(prog)s --json > info.json
  OMP_NUM_THREADS=1 %(prog)s
"""

# How to print the source of a limit; other sources are names of variables and functions.
_SOURCES = {
    "CPU affinity": "the CPUs that this process may run on (affinity)",
    "number of CPUs": "the CPUs of this machine",
    "cgroup CPU quota": "the CPU quota of its control group (container)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `info`."""
    add_output(parser, progress=False)


def run(args: argparse.Namespace) -> int:
    """Collect the facts and print them."""
    facts = machine.facts()
    if args.json:
        show_json(facts)
    else:
        show_facts([*_software(facts), *_cpu(facts["cpu"]), *_threads(facts["threads"]),
                    *_cache(facts["cache"]), *_cuda(facts["cuda"])])  # fmt: skip
    return 0


Facts = Iterator[tuple[str, str]]


def _software(facts: dict[str, Any]) -> Facts:
    yield "fastxent", facts["fastxent"]
    yield "Python", f"{facts['python']}, {facts['platform']}"
    libraries = {name: f"{name} {version}" for name, version in facts["libraries"].items()}
    required = [libraries.pop(name) for name in machine.REQUIRED if name in libraries]
    yield "Libraries", ", ".join(required)
    yield "  optional", ", ".join(libraries.values()) or "none"


def _cpu(cpu: dict[str, Any]) -> Facts:
    yield "CPU", f"{cpu['model']}, {cpu['cpus']} CPUs; LLVM name {cpu['llvm_name']}"
    yield "  features", " ".join(cpu["features"]) or "unknown"
    width, register = cpu["vector_bytes"], cpu["register_bytes"]
    n = width // register if register else 0
    where = f", each in {n} register{'s' * (n > 1)} of {register} bytes" if n else ""
    yield "  vectors", f"{width // 4} float32 or {width // 8} float64{where}"


def _threads(threads: dict[str, Any]) -> Facts:
    source = threads["source"]
    yield "Threads", f"{threads['used']}, by {_SOURCES.get(source, source)}"
    limits = [f"{limit['source']} {limit['threads']}" for limit in threads["limits"]]
    yield "  limits", ", ".join(limits)
    own = f"at most {threads['tensors']}" if threads["tensors"] else "the same"
    yield "  tensors", own


def _cache(cache: dict[str, Any]) -> Facts:
    yield "Cache", cache["path"] or "none"
    why = cache["variable"] or "default; FASTXENT_CACHE_DIR changes it"
    yield "  set by", why
    yield "  holds", f"{cache['files']} files, {_size(cache['bytes'])}"
    yield "  writable", "yes" if cache["writable"] else f"no: {cache['obstacle']}"


def _cuda(cuda: dict[str, Any]) -> Facts:
    driver = (
        f"; the driver supports CUDA {cuda['driver_version']}" if cuda["driver_version"] else ""
    )
    n = len(cuda["devices"])
    yield "CUDA", f"{n or 'no'} device{'s' * (n != 1)}{driver}"
    for number, device in enumerate(cuda["devices"]):
        capability = "{}.{}".format(*device["compute_capability"])
        memory = _size(device["memory_bytes"])
        yield f"  {number}", f"{device['name']}, compute capability {capability}, {memory}"
        if device["missing"]:
            yield "  missing", device["missing"]
    if cuda["missing"]:
        yield "  missing", cuda["missing"]


def _size(n: int) -> str:
    """A number of bytes with its unit."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n >= scale:
            return f"{n / scale:.1f} {unit}"
    return f"{n} bytes"
