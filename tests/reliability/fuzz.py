"""Coverage-guided fuzzing of the public functions: each call is refused by name, or right.

    python fuzz.py [--seconds S] [--calls N] [--seed K] [--log FILE]    # the last line is JSON
    python fuzz.py --replay BASE64                                      # one call, described

Bytes become a call (`drawn_calls`), and the answer is compared with what is documented (`answers`).
atheris sees the branches of all modules but those that Numba compiles, which it must not rewrite.
"""

import argparse
import base64
import json
import os
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import atheris
import numpy as np

COMPILED = [
    f"fastxent.{name}"
    for name in (
        "formulas", "cpu.kernels", "cpu.binary_kernels", "cpu.categorical_kernels",
        "cpu.conversion_kernels", "cpu.few_class_kernels", "cpu.hvp_kernels",
        "cpu.few_class_hvp_kernels", "cpu.entropy_kernels", "cpu.groups", "cpu.tiles", "cpu.row",
        "cpu.lanes", "cpu.half_lanes", "cpu.labels", "cpu.memory", "cpu.columns", "cpu.float_mode",
        "cpu.vector_math", "cpu.scratch", "cpu.xla_kernels", "cpu.xla_interface",
        "cpu.kernel_calls", "cpu.partial", "reference",
    )
]  # fmt: skip
with atheris.instrument_imports(include=["fastxent"], exclude=COMPILED):
    import fastxent as fx
    import fastxent.cpu.backend
EDGES = atheris._reserve_counter()  # the next one's number is how many there are

sys.path.insert(0, str(Path(__file__).parent.parent))  # the bounds stand in tests/conftest.py
import answers  # noqa: E402
import drawn_calls  # noqa: E402


def judge(call):
    """Make the call and return whether it was refused; raise if that or the result is wrong."""
    try:
        with warnings.catch_warnings(), fx.num_threads(call.threads):
            warnings.simplefilter("error")
            result = getattr(fx, call.name)(**call.arguments)
    except (TypeError, ValueError, IndexError) as error:
        deserved = [name for name, kinds in call.wrong.items() if type(error) in kinds]
        if not str(error).startswith(tuple(deserved)):
            raise
        untouched(call)
        return True
    assert not call.wrong, "accepted"
    found = {name: np.copy(part) for name, part in answers.named(call, result).items()}
    for name, buffer in call.buffers.items():  # so what lies under buffers can be compared too
        buffer[...] = call.initial[name]
    untouched(call)
    answers.check(call, found)
    return False


def untouched(call):
    for memory, before in zip(call.memory, call.before, strict=True):
        assert memory.tobytes() == before, "an argument was written to"


class Fuzzer:
    """Counts calls up to the limit of time or number; the first failure ends the process."""

    def __init__(self, seconds, limit, log):
        self.seconds, self.limit, self.log = seconds, limit, log
        self.place = tempfile.TemporaryDirectory()
        self.begin, self.calls, self.refused = time.monotonic(), 0, 0

    def one(self, data):
        """The function that atheris calls."""
        try:
            self.refused += judge(decoded(data))
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            print(decoded(data))
            print("--replay", base64.b64encode(data).decode())
            self.end(1)
        self.calls += 1
        if self.calls == self.limit or time.monotonic() - self.begin > self.seconds:
            self.end(0)

    def end(self, found):
        """Print a summary and exit, since libFuzzer would go on."""
        covered = re.findall(
            r"cov: (\d+)", self.log.read_text(errors="replace") if self.log else ""
        )
        said = {
            "calls": self.calls, "refused": self.refused, "found": found,
            "edges": int(covered[-1]) if covered else None, "of": EDGES,
            "seconds": round(time.monotonic() - self.begin, 1),
        }  # fmt: skip
        print(json.dumps(said), flush=True)
        self.place.cleanup()
        os._exit(found)


def decoded(data):
    return drawn_calls.Call(atheris.FuzzedDataProvider(data))


def begin(corpus, seed):
    """A seed corpus: without one, libFuzzer's inputs stay short for long."""
    numbers = random.Random(seed)
    corpus.mkdir()
    for k in range(64):
        (corpus / str(k)).write_bytes(numbers.randbytes(numbers.randrange(16, 256)))
    return str(corpus)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--calls", type=int, default=0, help="end after so many (0: by time)")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--log", type=Path, help="for what libFuzzer says; needed to count edges")
    options.add_argument("--replay", metavar="BASE64")
    given = options.parse_args()
    if given.replay is not None:
        call = decoded(base64.b64decode(given.replay))
        print(call)
        print("refused" if judge(call) else "answered", "as documented")
        return
    if given.log:
        os.dup2(os.open(given.log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
    fx.warmup()  # else compiling would take most of the time
    fuzzer = Fuzzer(given.seconds, given.calls, given.log)
    place = Path(fuzzer.place.name)
    flags = [f"-seed={given.seed}", "-max_len=384", "-len_control=0", "-timeout=60",
             "-rss_limit_mb=0", f"-artifact_prefix={place}/"]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags, begin(place / "corpus", given.seed)], fuzzer.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
