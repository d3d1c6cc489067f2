"""Write the Sphinx inventories in which references to other projects are looked up.

`python docs/inventories.py` writes them. A project's own inventory lists thousands of names; these
list only the names that docstrings here refer to, so that a build needs no network. A missing name
is a warning, which the build treats as an error.
"""

import zlib
from pathlib import Path

EXCEPTIONS = ["IndexError", "RuntimeError", "TypeError", "ValueError"]
NUMPY = "reference/generated/"
SCIPY = "reference/generated/"
# Project: its version, and for each name its kind and its page.
PROJECTS: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "python": ("3", {name: ("exception", "library/exceptions.html") for name in EXCEPTIONS}),
    "numpy": ("2", {
        "numpy.ndarray": ("class", f"{NUMPY}numpy.ndarray.html"),
        "numpy.asarray": ("function", f"{NUMPY}numpy.asarray.html"),
    }),
    "scipy": ("1", {
        f"scipy.special.{name}": ("function", f"{SCIPY}scipy.special.{name}.html")
        for name in ("softmax", "log_softmax", "logsumexp")
    }),
}  # fmt: skip


def inventory(project: str, version: str, names: dict[str, tuple[str, str]]) -> bytes:
    """Sphinx's format, version 2; `$` at the end of a page's address stands for the name."""
    head = (
        "# Sphinx inventory version 2\n"
        f"# Project: {project}\n"
        f"# Version: {version}\n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    lines = (f"{name} py:{kind} 1 {page}#$ -\n" for name, (kind, page) in sorted(names.items()))
    return head.encode() + zlib.compress("".join(lines).encode(), 9)


def main() -> None:
    """Write a file for each project, beside this one."""
    folder = Path(__file__).parent / "inventories"
    folder.mkdir(exist_ok=True)
    for project, (version, names) in PROJECTS.items():
        (folder / f"{project}.inv").write_bytes(inventory(project, version, names))


if __name__ == "__main__":
    main()
