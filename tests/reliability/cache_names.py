"""Kernels compiled by one process each, all loaded by this one: `cache_names.py NUMBER FOLDER`.

Prints how many calls give the same bits here as in the process that compiled them, of how many; and
how many function names occur in the files of more than one process.
"""

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

import fastxent as fx
from fastxent import reference, warmup_steps
from fastxent.functions import FUNCTIONS, Kind

ROWS = 37


def calls():
    """A call for each variant of every function, on varied numbers.

    The linear map has none of its own: it runs those of `cross_entropy`.
    """
    rng = np.random.default_rng(5)
    for function in FUNCTIONS.values():
        if function.kind is Kind.LINEAR:
            continue
        for call in warmup_steps.calls(function, "float32"):
            warm = call.keywords
            classes = warm[function.first].shape[1]
            probs = reference.softmax(rng.standard_normal((ROWS, classes)))
            logits = 3 * rng.standard_normal((ROWS, classes))
            given = warm | {
                function.first: np.float32(probs if function.of_probabilities else logits)
            }
            if "target" in warm:
                labels = isinstance(warm["target"], list)
                given["target"] = rng.integers(0, classes, ROWS) if labels else probs
            yield call.func, given


def digest(call):
    """Digest of all results of a call."""
    function, given = call
    return hashlib.sha256(b"".join(flat(function(**given)))).hexdigest()


def flat(result):
    for part in result if isinstance(result, tuple) else [result]:
        if isinstance(part, tuple):
            yield from flat(part)
        elif part is not None:
            yield np.asarray(part).tobytes()


def symbols(file):
    """The global names that a kernel's machine code defines; none if it is not ELF."""
    reduced = pickle.loads(file.read_bytes()[32:])
    state = next(part for part in reduced if isinstance(part, tuple) and "object" in part)
    code = state[2][0]
    if not code.startswith(b"\x7fELF\x02\x01"):
        return
    at, size, number = *struct.unpack_from("<Q", code, 0x28), *struct.unpack_from("<HH", code, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, at + k * size) for k in range(number)]
    for _, kind, _, _, start, length, link, *_ in sections:
        if kind != 2:  # the table of symbols
            continue
        for entry in range(start, start + length, 24):
            name, info, _, section = struct.unpack_from("<IBBH", code, entry)
            if info >> 4 and section:  # not local, and defined here
                first = sections[link][4] + name
                yield code[first : code.index(b"\0", first)]


def main(number, folder):
    every = list(calls())
    # Not every second one: their flags alternate, and half of the kernels would not be among them.
    order = np.random.default_rng(5).permutation(len(every))
    chosen = sorted(map(int, order[:number]))
    if folder.name.isdecimal():  # one of the processes that compile
        print(digest(every[int(folder.name)]))
        return
    running, said = {}, {}
    waiting = list(chosen)
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            k = waiting.pop()
            own = os.environ | {"FASTXENT_CACHE_DIR": str(folder / str(k))}
            running[k] = subprocess.Popen(
                [sys.executable, __file__, str(number), str(folder / str(k))], env=own,
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        k, process = next(iter(running.items()))
        said[k] = process.communicate(timeout=300)[0].strip()
        del running[k]
    together = folder / "together"
    together.mkdir()
    files = {file.name: file for file in folder.glob("*/*.bin")}
    for name, file in files.items():
        (together / name).write_bytes(file.read_bytes())
    os.environ["FASTXENT_CACHE_DIR"] = str(together)
    right = sum(digest(every[k]) == said[k] for k in chosen)
    compiled = len(list(together.iterdir())) - len(files)
    owners = {}
    for file in files.values():
        for name in symbols(file):
            owners.setdefault(name, set()).add(file.parent)
    print(json.dumps({
        "right": right, "tried": len(said), "files": len(files), "names": len(owners),
        "compiled": compiled, "shared": sum(len(folders) > 1 for folders in owners.values()),
    }))  # fmt: skip


if __name__ == "__main__":
    fx.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
