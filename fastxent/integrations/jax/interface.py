"""The version of XLA's FFI in the installed jaxlib."""

import functools
import re
from pathlib import Path

import jax.ffi


@functools.cache
def interface_version() -> int:
    """The minor version of XLA's interface, which a handler has to declare."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    match = re.search(r"#define XLA_FFI_API_MINOR (\d+)", header.read_text())
    if match is None:
        raise RuntimeError(f"{header} must define XLA_FFI_API_MINOR: this jax is not supported")
    return int(match[1])
