"""What describes the package agrees: versions and bounds in pyproject.toml and other files."""

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from fastxent._version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
# What lowest.txt holds back, beside the dependencies: extras without large libraries.
TRIED = ("demo", "sklearn")


def requirements(*lists):
    """(name, specifier) of each requirement that names a version."""
    pattern = re.compile(r"([\w.-]+)(?:\[.*?\])?([<>=]=[^;]+)")
    for text in chain(*lists):
        if isinstance(text, str) and (found := pattern.match(text)):  # a group may include others
            yield found[1], found[2].strip()


def everything():
    return requirements(PROJECT["project"]["dependencies"], *EXTRAS.values(), *GROUPS.values())


def pinned(name):
    return dict(requirements(GROUPS["lint"]))[name].removeprefix("==")


def test_a_package_has_one_bound():
    """Extras and groups that name the same package name the same versions of it."""
    bounds = {}
    for name, bound in everything():
        assert bounds.setdefault(name, bound) == bound, name
    assert len(bounds) > 20


def test_lowest_versions():
    """tests/lowest.txt has the lower bounds, to the digits that they have."""
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    tried = (EXTRAS[name] for name in TRIED)
    bounds = dict(requirements(PROJECT["project"]["dependencies"], *tried))
    assert lowest.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert (lowest[name] + ".").startswith(bound.removeprefix(">=") + "."), name
        assert set(lowest[name].removeprefix(bound[2:])) <= set(".0"), name
    python = PROJECT["project"]["requires-python"]
    said = f"Python {python}, NumPy {bounds['numpy']} and Numba {bounds['numba']}".replace(">=", "")
    for page in ("CONTRIBUTING.md", "docs/start.md"):
        assert said in (ROOT / page).read_text(), page


def test_pythons():
    """The oldest Python that may be used is the oldest that is tested, everywhere the same."""
    prefix = "Programming Language :: Python :: 3."
    classifiers = PROJECT["project"]["classifiers"]
    tested = [int(text.removeprefix(prefix)) for text in classifiers if text.startswith(prefix)]
    assert PROJECT["project"]["requires-python"] == f">=3.{min(tested)}"
    assert sorted(tested) == list(range(min(tested), max(tested) + 1))
    assert sys.version_info[1] in tested, "a Python without a classifier"
    script = (ROOT / ".ci" / "run").read_text()
    assert f"for minor in {' '.join(map(str, sorted(tested)))};" in script


def test_pre_commit_has_the_same_linters():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    revisions = dict(re.findall(r"repo: \S+/(\S+)\n\s+rev: v(\S+)", text))
    assert revisions["ruff-pre-commit"] == pinned("ruff")
    assert revisions["mirrors-mypy"] == pinned("mypy")
    assert revisions["codespell"] == pinned("codespell")
    (numpy,) = re.findall(r'additional_dependencies: \["numpy(.+)"\]', text)
    assert ("numpy", numpy) in set(everything())


def test_conda_recipe():
    """It requires what the package does, and installs the same command."""
    text = (ROOT / "conda" / "recipe.yaml").read_text()
    run = text.partition("  run:\n")[2].partition("\n\n")[0]
    wanted = [*PROJECT["project"]["dependencies"], "python" + PROJECT["project"]["requires-python"]]
    assert sorted(line.strip(" -").replace(" ", "") for line in run.splitlines()) == sorted(wanted)
    assert "- " + PROJECT["build-system"]["requires"][0].replace(">=", " >=") in text
    for command, function in PROJECT["project"]["scripts"].items():
        assert f"- {command} = {function}\n" in text


@pytest.mark.skipif(".dev" in __version__, reason="they name the release before")
def test_release():
    """The recipe and the citation name the released version."""
    assert f'version: "{__version__}"\n' in (ROOT / "conda" / "recipe.yaml").read_text()
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
