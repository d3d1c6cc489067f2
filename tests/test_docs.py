"""Every example that people read is run: docstrings and pages; the README's two commands stand."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import fastxent as fx

ROOT = Path(__file__).parent.parent
MODULES = [
    "_softmax", "_cross_entropy", "_binary", "_linear", "_hvp", "_warmup", "cpu.threads",
    *(f"integrations.{name}" for name in ("torch", "sklearn", "xgboost", "lightgbm")),
    *(f"integrations.jax.{name}" for name in ("rows", "binary", "linear", "maps")),
    *(f"integrations.boosting.{name}" for name in ("objectives", "metrics")),
    "integrations.torch.functional",
]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    """The examples of the public docstrings."""
    if name.startswith("integrations.") and "boosting" not in name:
        pytest.importorskip(name.split(".")[1])
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


def test_every_function_for_jax_programs_has_an_example():
    """Likewise."""
    pytest.importorskip("jax")
    module = importlib.import_module("fastxent.integrations.jax")
    for name in module.__all__:
        for section in ("Parameters\n", "Returns\n", "Raises\n", "Examples\n", ".. math::"):
            assert section in getattr(module, name).__doc__, (name, section)


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.S)


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
         if python_blocks(page)]  # fmt: skip
# Blocks without prompts: a kernel, programs for a GPU, the signatures.
EXCERPTS = {"one-pass.md": 1, "gpu.md": 2, "specification.md": 1}


def imported(examples):
    """The packages that examples import."""
    for example in examples:
        for node in ast.walk(ast.parse(example.source)):
            if isinstance(node, ast.ImportFrom):
                yield (node.module or "").partition(".")[0]
            elif isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_pages(page):
    """The Python blocks print what they say; all of a page follow each other."""
    blocks = python_blocks(page)
    shown = [block for block in blocks if ">>>" not in block]
    assert len(shown) == EXCERPTS.get(page.name, 0)
    for block in shown:
        compile(block, page.name, "exec")
    text = "\n".join(block for block in blocks if ">>>" in block)
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, page.name, 0)
    assert test.examples or shown
    for name in sorted(set(imported(test.examples))):
        pytest.importorskip(name, reason=f"the page shows {name}")
    with np.errstate():  # a page may silence NumPy's warnings
        assert doctest.DocTestRunner().run(test).failed == 0


def test_signatures_in_the_specification():
    """The page declares every public function, with the parameters and defaults of the code."""
    (block,) = [b for b in python_blocks(ROOT / "docs/specification.md") if ">>>" not in b]
    page = {}
    exec(block, page)
    functions = [name for name in fx.__all__ if inspect.isfunction(getattr(fx, name))]
    assert sorted(functions) == sorted(name for name in page if inspect.isfunction(page[name]))
    for name in functions:
        declared, actual = (
            inspect.signature(f).parameters for f in (page[name], getattr(fx, name))
        )
        assert list(declared) == list(actual), name
        for a, b in zip(declared.values(), actual.values(), strict=True):
            assert (a.kind, a.default) == (b.kind, b.default), (name, a.name)


def test_readme_commands():
    """The first two sh blocks are one line each; the first runs the demo, the second the tests."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert blocks[0].rstrip().endswith("fastxent demo")
    assert blocks[1].rstrip().endswith("-m pytest -n auto --dist worksteal")
    for block in blocks[:2]:
        assert block.startswith("test -x .venv/bin/python || python3 -m venv .venv")
