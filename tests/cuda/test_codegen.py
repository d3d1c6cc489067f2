"""The machine code of every kernel, for each architecture, compiled without a GPU.

It shows the width of accesses, the types of the arithmetic, and that no registers spill to memory.
It cannot show that the code is fast, or that it is right.
"""

import re

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is optional: pip install 'fastxent[cuda13]'")

import inventory

from fastxent.cuda import jit

REGISTERS = 65536  # of a multiprocessor
ENTRIES = list(inventory.every())


def test_every_kernel_has_a_name_of_its_own():
    """By which it is known in the cache."""
    kernels = [entry.kernel for entry in ENTRIES]
    assert len({kernel.name for kernel in kernels}) == len(set(kernels))


@pytest.mark.share(16)  # each takes seconds to compile
@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.kernel.name for entry in ENTRIES])
def test_code(entry):
    """Vectors of 128 bits, no float64 among float32, no local memory, registers within bounds."""
    for capability, ptx in inventory.compiled(entry.kernel, entry.capabilities).items():
        _, report = jit.link(ptx, capability)
        assert ".local" not in ptx, capability
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report, report
        registers = int(re.search(r"Used (\d+) registers", report)[1])
        assert registers * entry.kernel.block * entry.kernel.blocks <= REGISTERS
        vectors = set(re.findall(r"(ld|st)\.global\.(?:v4\.[fbu]32|v2\.[fbu]64)", ptx))
        assert vectors >= set(entry.vectors), capability
        blocks = re.findall(r"^\.reqnctapercluster (\d+), 1, 1$", ptx, re.MULTILINE)
        assert blocks == ([str(entry.kernel.cluster)] if entry.kernel.cluster > 1 else [])
        if entry.single:
            assert ".f64" not in ptx, capability


def test_the_package_compiles_the_same():
    """What `machine_code` makes, and keeps on disk, is a program that the linker accepts."""
    entry = ENTRIES[0]
    name, code = jit.machine_code(entry.kernel, (9, 0))
    assert code[:4] == b"\x7fELF"
    assert name.encode() in code
    assert jit.machine_code(entry.kernel, (9, 0)) == (name, code)


def test_a_toolkit_that_does_not_fit_says_what_to_install(monkeypatch):
    """Whatever its linker makes of what its compiler gave."""

    def refused(code, capability):
        raise ValueError("Unsupported .version 9.9")

    monkeypatch.setattr(jit, "link", refused)
    monkeypatch.setattr(jit.kernel_files, "load", lambda name, identity: None)
    with pytest.raises(RuntimeError, match=r"sm_90 \(Unsupported .*\[cuda13\]"):
        jit.machine_code(ENTRIES[0].kernel, (9, 0))
