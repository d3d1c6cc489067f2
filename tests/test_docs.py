"""Every example that people read is run: docstrings and README; the README's two commands stand."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import fastxent as fx

ROOT = Path(__file__).parent.parent
MODULES = ["_softmax", "_cross_entropy", "_binary", "_linear", "_warmup", "cpu.threads",
           "integrations.torch", "integrations.jax"]  # fmt: skip


def wanted_by(name):
    """Skip what shows a library that is not installed."""
    for library in ("torch", "jax", "scipy", "dask"):
        if name in ("docs/integrations.md", f"integrations.{library}"):
            pytest.importorskip(library)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    """The examples of the public docstrings."""
    wanted_by(name)
    module = importlib.import_module(f"fastxent.{name}")
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


def test_every_public_function_has_an_example():
    """numpydoc with an example, parameters, and what it raises."""
    for name in fx.__all__:
        function = getattr(fx, name)
        if not callable(function) or isinstance(function, type):
            continue
        doc = function.__doc__
        assert "Examples\n" in doc, name
        if name != "get_num_threads":
            assert "Parameters\n" in doc, name
            assert "Raises\n" in doc, name


@pytest.mark.parametrize(("name", "least"), [("README.md", 5), ("docs/one-pass.md", 1),
                                              ("docs/integrations.md", 5)])  # fmt: skip
def test_examples_of_documents(name, least):
    """The Python blocks print what they say."""
    wanted_by(name)
    text = (ROOT / name).read_text()
    examples = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    test = doctest.DocTestParser().get_doctest(examples, {}, name, name, 0)
    assert len(test.examples) > least
    assert doctest.DocTestRunner().run(test).failed == 0


def test_readme_commands():
    """The first two sh blocks are one line each; the first runs the demo, the second the tests."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert blocks[0].rstrip().endswith("fastxent demo")
    assert blocks[1].rstrip().endswith("-m pytest -n auto --dist worksteal")
    for block in blocks[:2]:
        assert block.startswith("test -x .venv/bin/python || python3 -m venv .venv")
