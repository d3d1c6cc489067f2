"""Run fastxent on an emulated 64-bit ARM CPU: tests, and checks against the reference.

    python tests/aarch64/run.py [--folder FOLDER] [--cpu NAME ...] [-- TEST ...]

For an x86-64 Debian (or a derivative), without root. Debian's QEMU and CPython for arm64 are
downloaded and unpacked into FOLDER, with the arm64 wheels of the packages from PyPI; a second run
uses them again. The emulated processes run everything but the compiler, for which emulation is too
slow: kernels are compiled by a process of this computer (`cross_compile.py`), by the same versions
of Numba and LLVM, into the cache folder from which the emulated processes load them. So CPython
has to be of the same minor version here and in Debian.
"""

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Cpu(NamedTuple):
    """A CPU as QEMU emulates it, and as LLVM compiles for it."""

    qemu: str
    llvm: str
    features: str


CPUS = {
    "neoverse-n1": Cpu("neoverse-n1", "neoverse-n1", "+neon"),
    # QEMU's widest CPU, with the instructions of the Neoverse V1 and vectors of its length.
    "sve": Cpu("max,sve256=on", "neoverse-v1", "+neon,+sve"),
}
# These versions have to be those that compile; of the other packages any will do.
SAME = ["numba", "llvmlite", "numpy"]
OTHERS = ["scipy", "pytest", "hypothesis", "ml_dtypes"]
TESTS = [
    *(f"test_{name}.py" for name in "special_values gradients half functions layouts".split()),
    # The functions of vectors, which are compiled in the emulation.
    *(f"test_lanes.py::test_{name}" for name in (
        "exp_and_expm1", "exp_of_a_rounded_difference", "exp_at_its_ends", "a_bound_keeps_nan",
        "logarithms", "parts_of_vectors_stay_inside", "sums_over_lanes",
    )),
]  # fmt: skip


def shell(*command: object, **options: object) -> str:
    """Run a command; return what it prints."""
    words = [str(word) for word in command]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    return str(done.stdout)


def download(folder: Path, architecture: str, packages: list[str], *, alone: bool) -> None:
    """Unpack Debian packages, with all that they depend on unless `alone`, into folder/root."""
    state, archives = folder / "apt", folder / "archives"
    for place in (state / "lists" / "partial", archives / "partial"):
        place.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()  # nothing is installed, so all is downloaded
    settings = {
        "APT::Architecture": architecture, "APT::Architectures": architecture, "Dir::State": state,
        "Dir::State::status": state / "status", "Dir::Cache": folder,
        "Dir::Cache::archives": archives, "Debug::NoLocking": 1, "APT::Sandbox::User": "",
    }  # fmt: skip
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    shell(*apt, "update")
    if alone:
        shell(*apt, "download", *packages, cwd=archives)
    else:
        shell(*apt, "-y", "--no-install-recommends", "--download-only", "install", *packages)
    for package in archives.glob("*.deb"):
        shell("dpkg", "-x", package, folder / "root")


def prepare(folder: Path) -> None:
    """Download what is not in the folder yet."""
    if not (folder / "qemu").exists():
        download(folder / "emulator", "amd64", ["qemu-user-static"], alone=True)
        (folder / "qemu").symlink_to("emulator/root/usr/bin/qemu-aarch64-static")
    if not (folder / "root").exists():
        download(folder / "arm64", "arm64", ["python3", "libstdc++6"], alone=False)
        (folder / "root").symlink_to("arm64/root")
    if not (folder / "wheels").exists():
        wanted = [f"{name}=={importlib.metadata.version(name)}" for name in SAME] + OTHERS
        platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)]
        python = "{}.{}".format(*sys.version_info)
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shell(
            sys.executable, "-m", "pip", "install", "-q", "--target", unfinished, *platforms,
            "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *wanted,
        )  # fmt: skip
        unfinished.rename(folder / "wheels")


class Emulation:
    """Emulated processes of one CPU, and the process that compiles their kernels."""

    def __init__(self, folder: Path, name: str) -> None:
        cpu = CPUS[name]
        own = {
            "NUMBA_CPU_NAME": cpu.llvm, "NUMBA_CPU_FEATURES": cpu.features,
            "FASTXENT_CACHE_DIR": str(folder / f"cache-{name}"), "FASTXENT_NUM_THREADS": "2",
            "FASTXENT_COMPILER": str(folder / f"compiler-{name}"), "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        wheels, tests = folder / "wheels", ROOT / "tests"
        path = os.pathsep.join(map(str, (ROOT, HERE, tests, wheels)))
        self.environment = {**os.environ, **own, "PYTHONPATH": path}
        self.python = [folder / "qemu", "-cpu", cpu.qemu, "-L", folder / "root",
                       folder / "root/usr/bin/python3"]  # fmt: skip
        version = self.run("-c", "import platform; print(platform.python_version())")[0]
        if version.split(".")[:2] != [str(number) for number in sys.version_info[:2]]:
            raise SystemExit(f"Debian has Python {version}: run this with the same minor version")
        Path(own["FASTXENT_COMPILER"]).unlink(missing_ok=True)
        self.compiler = subprocess.Popen(
            [sys.executable, HERE / "cross_compile.py", own["FASTXENT_COMPILER"], version],
            env={**self.environment, "PYTHONPATH": str(ROOT)},
        )

    def run(self, *words: object) -> tuple[str, int]:
        """Run the emulated Python and print its output; return the last line and the status."""
        command, last = [str(word) for word in (*self.python, *words)], ""
        with subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                last = line.strip() or last
        return last, process.returncode


def main() -> None:
    """Run it all; print a line of counts for each CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "fastxent-aarch64"
    parser.add_argument("--folder", type=Path, default=default, help="downloads and kernels")
    parser.add_argument("--cpu", action="append", choices=CPUS, help="default: all")
    parser.add_argument("tests", nargs="*", help="pytest's arguments instead of the list")
    options = parser.parse_args()
    if shutil.which("apt-get") is None:
        raise SystemExit("needs Debian's apt-get and dpkg")
    folder = options.folder.resolve()
    prepare(folder)
    lines, failed = [], False
    for name in options.cpu or CPUS:
        began = time.monotonic()
        emulation = Emulation(folder, name)
        try:
            checks, wrong = emulation.run(HERE / "checks.py")
            tests = options.tests or [f"tests/{test}" for test in TESTS]
            arguments = ("-q", "-p", "remote_compiler", "-p", "no:cacheprovider", *tests)
            summary, failures = emulation.run("-m", "pytest", *arguments)
        finally:
            emulation.compiler.kill()
        failed |= bool(wrong or failures)
        seconds = time.monotonic() - began
        lines.append(f"{name}: {checks}; tests: {summary}; {seconds:.0f} s in all")
    print("\n".join(lines))
    sys.exit(failed)


if __name__ == "__main__":
    main()
