"""Compile kernels for 64-bit ARM on an x86-64 computer, into the cache of emulated processes.

    python cross_compile.py SOCKET PYTHON_VERSION

Numba compiles for the process that it is in. Here it is told another target, and its kernels are
saved, never run. `remote_compiler` sends the requests.
"""

import platform
import sys
from multiprocessing.connection import Listener

from llvmlite import binding

TRIPLE = "aarch64-unknown-linux-gnu"


def main(socket: str, python_version: str) -> None:
    """Serve requests until the process is ended."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    binding.get_process_triple = binding.get_default_triple = lambda: TRIPLE
    platform.python_version = lambda: python_version  # a part of a cached kernel's identity

    from fastxent.cpu import jit

    with Listener(socket, "AF_UNIX") as listener:
        while True:
            with listener.accept() as connection:
                source, signature = connection.recv()
                cache = jit._CheckedCache(jit.name_of(source))
                try:
                    jit._compile(source, signature, cache)
                except Exception as error:  # the caller compiles it, and says what is wrong
                    print(f"{source.name}: {error!r}", file=sys.stderr)
                connection.send(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
