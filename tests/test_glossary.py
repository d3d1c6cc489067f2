"""Names in the package: words that the glossary replaces are not used to define anything."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import fastxent as fx

PACKAGE = Path(fx.__file__).parent

# Word → what to say instead. A name is split at underscores and capitals, and none of its parts
# may be one of these words. Words that have a right meaning too (tail, part, scaled) are not here.
REPLACED = {
    "apart": "never_inlined, separate, or what is separated",
    "share": "prob_coef, target_coef or other_coef; fraction or portion",
    "pull": "target_coef",
    "push": "prob_coef",
    "keep": "one_minus_eps",
    "spread": "eps_over_c",
    "loud": "active",
    "silent": "ignored",
    "blank": "fill",
    "narrow": "few_classes, column, round_to or per_row",
    "wide": "vectorised, per_class, float64 or widened",
    "edge": "unaligned_head or unaligned_end",
    "edges": "unaligned_head and unaligned_end",
    "effort": "max_per_thread",
    "little": "a named budget of elements per thread",
    "some": "a named budget, or what the items are",
    "much": "a named budget of elements per thread",
    "sight": "CallKey",
    "again": "run_cached",
    "idle": "plans",
    "told": "the noun",
    "replay": "run_cached",
    "aim": "CheckedTarget",
    "given": "the noun: arguments, options, inputs",
    "asked": "the noun: requested",
    "held": "the noun: registers, saved_gradient",
    "seen": "the noun: view, types",
    "kept": "the noun: saved",
    "found": "the noun: result, outputs",
}
# (File or folder in the package, name or "*") → (words it may use, why).
EXEMPT = {
    ("cpu/helpers.py", "*"): ({"idle"}, "threads without work, as thread pools call them"),
}
# Names of several classes → why.
SAME_NAME = {
    "LinearGrad": "the reference has its own, as it imports nothing of the package",
}


def definitions(tree):
    """(name, line) of all that a module defines: functions, arguments, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno


def words(name):
    """The words of an identifier, in lower case."""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def makes_functions(node):
    """Whether a function returns functions that it defines; Numba's intrinsics do by their form."""
    decorators = " ".join(ast.unparse(part) for part in node.decorator_list)
    if "intrinsic" in decorators or "overload" in decorators:
        return False
    parts = [part for part in ast.walk(node) if part is not node]
    inner = {part.name for part in parts if isinstance(part, ast.FunctionDef)}
    values = [part.value for part in parts if isinstance(part, ast.Return)]
    values += [part for value in values if isinstance(value, ast.Tuple) for part in value.elts]
    return any(
        isinstance(value, ast.Lambda) or isinstance(value, ast.Name) and value.id in inner
        for value in values
    )


def exempt(file):
    """The words that a file may use in each name: {name or "*": words}."""
    return {name: used for (path, name), (used, _) in EXEMPT.items() if file.startswith(path)}


def violations(source, file):
    """What breaks the glossary in a module's text: "file:line name (what to say)"."""
    tree, allowed = ast.parse(source), exempt(file)
    everywhere = allowed.get("*", set())
    for name, line in [*definitions(tree), (Path(file).stem, 1)]:
        for word in sorted(words(name) & REPLACED.keys() - everywhere - allowed.get(name, set())):
            yield f"{file}:{line} {name} (say {REPLACED[word]})"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and re.search("(^|_)of(_|$)", node.name):
            if makes_functions(node) and not node.name.lstrip("_").startswith("make"):
                yield f"{file}:{node.lineno} {node.name} (say make_…: it makes functions)"


def class_names(source):
    return [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


def modules():
    """(Path in the package, text) of each module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text()


def test_names_are_those_of_the_glossary():
    """Nothing is named by a word that the glossary replaces; functions that make others say so."""
    broken = [line for file, source in modules() for line in violations(source, file)]
    assert not broken, "\n".join(broken)


def test_a_class_name_stands_for_one_class():
    """No two classes of the package have the same name."""
    places = defaultdict(list)
    for file, source in modules():
        for name in class_names(source):
            places[name].append(file)
    repeated = {name: files for name, files in places.items() if len(files) > 1}
    assert repeated.keys() <= SAME_NAME.keys(), repeated


def test_exemptions_are_needed():
    """Each exemption has a reason and a name that needs it."""
    sources = dict(modules())
    for (path, name), (used, reason) in EXEMPT.items():
        files = [file for file in sources if file.startswith(path)]
        names = {n for file in files for n, _ in definitions(ast.parse(sources[file]))}
        needed = {word for n in names if name in ("*", n) for word in words(n)}
        assert reason and used <= needed, (path, name)
    classes = [name for source in sources.values() for name in class_names(source)]
    assert all(classes.count(name) > 1 and SAME_NAME[name] for name in SAME_NAME)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def share(): pass", "share"),
        ("class HeldRow: pass", "HeldRow"),
        ("def f(*, narrow): pass", "narrow"),
        ("_WIDE = 1", "_WIDE"),
        ("for x, (again, y) in z: pass", "again"),
        ("self.n_kept = 1", "n_kept"),
        ("with f() as given: pass", "given"),
        ("import numpy as idle", "idle"),
        ("try: pass\nexcept OSError as found: pass", "found"),
        ("x = [push for push in y]", "push"),
        ("if (pull := f()): pass", "pull"),
        ("def plan_of(x):\n    def plan(): pass\n    return plan", "plan_of"),
        ("def axes_of(x):\n    return lambda y: x", "axes_of"),
        ("def pair_of(x):\n    def a(): pass\n    return a, x", "pair_of"),
    ],
)
def test_checker_sees_names(source, name):
    """Each way to define a name is seen."""
    (broken,) = violations(source, "module.py")
    assert f" {name} (say " in broken


@pytest.mark.parametrize(
    "source",
    [
        "found.held()",
        "f(given=1)",
        "def shared_memory(knowledge, widened, foundation): pass",
        "def make_plan_of(x):\n    def plan(): pass\n    return plan",
        "def plan_of(x):\n    return x.plan",
        "@intrinsic\ndef lanes_of(context, x):\n    def lower(): pass\n    return x, lower",
    ],
)
def test_checker_lets_other_names_pass(source):
    """Names that are only used, longer words, plain look-ups and Numba's intrinsics are fine."""
    assert not list(violations(source, "module.py"))


def test_checker_sees_the_name_of_a_module():
    """A module's own name counts."""
    assert list(violations("", "arrays/held.py"))
