"""Rules of the house that no linter checks: short files, short functions, no swallowed errors."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "benchmarks",
    "drivers",
    "kernel",
    "procs",
    "scripts",
    "syscalls",
    "ums",
    "userland",
)
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LINES_A_FILE = 500
LINES_A_FUNCTION = 60
PARAMETERS = 7
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
EVERYTHING = {"Exception", "BaseException"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, however deep."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def parameters(function: Function) -> int:
    """How many parameters callers see: without self and cls."""
    given = function.args
    positional = [item.arg for item in given.posonlyargs + given.args]
    bound = positional[:1] in (["self"], ["cls"])
    stars = (given.vararg is not None) + (given.kwarg is not None)
    return len(positional) - bound + len(given.kwonlyargs) + stars


def names(node: ast.expr | None) -> set[str]:
    """The names in the type of an ``except``; a bare one catches everything."""
    if node is None:
        return {"BaseException"}
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


def does_nothing(body: list[ast.stmt]) -> bool:
    """Whether a block only passes, goes on, or holds a string or dots."""
    return all(
        isinstance(item, ast.Pass | ast.Continue | ast.Break)
        or (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
        for item in body
    )


def swallows(node: ast.AST) -> bool:
    """Whether a node makes every error vanish without a word."""
    if isinstance(node, ast.ExceptHandler):
        return bool(names(node.type) & EVERYTHING) and does_nothing(node.body)
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        called = node.func.id if isinstance(node.func, ast.Name) else called
        given = {item.id for item in node.args if isinstance(item, ast.Name)}
        return called == "suppress" and bool(given & EVERYTHING)
    return False


def imported(node: ast.AST) -> set[str]:
    """The top-level modules that a node imports."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {node.module.partition(".")[0]}
    return set()


def breaches(source: str) -> list[str]:
    """What a source file does against the rules of the house."""
    found = []
    lines = len(source.splitlines())
    if lines > LINES_A_FILE:
        found.append(f"1: {lines} lines in the file, {LINES_A_FILE} allowed")
    tree = ast.parse(source)
    for function in functions(tree):
        at, name = function.lineno, function.name
        length = (function.end_lineno or at) - at + 1
        if length > LINES_A_FUNCTION:
            found.append(f"{at}: {name} has {length} lines, {LINES_A_FUNCTION} allowed")
        if (count := parameters(function)) > PARAMETERS:
            found.append(f"{at}: {name} has {count} parameters, {PARAMETERS} allowed")
    for node in ast.walk(tree):
        if swallows(node):
            found.append(f"{getattr(node, 'lineno', 0)}: swallows every error")
        if imported(node) & UNPICKLERS:
            found.append(f"{getattr(node, 'lineno', 0)}: imports what unpickles")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_rules_are_kept(path: Path) -> None:
    assert breaches(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "breach"),
    [
        ("x = 1\n" * 501, "1: 501 lines in the file, 500 allowed"),
        ("def f():\n" + "    x = 1\n" * 60, "1: f has 61 lines, 60 allowed"),
        ("async def f(a, b, c, d, *e, f, g, h): ...", "1: f has 8 parameters, 7 allowed"),
        ("class A:\n    def f(self, a, b, c, d, e, f, g): ...", ""),
        ("try:\n    f()\nexcept Exception:\n    pass", "3: swallows every error"),
        ("try:\n    f()\nexcept:\n    ...", "3: swallows every error"),
        ("try:\n    f()\nexcept (OSError, BaseException):\n    pass", "3: swallows every error"),
        ("try:\n    f()\nexcept Exception as e:\n    log(e)", ""),
        ("try:\n    f()\nexcept OSError:\n    pass", ""),
        ("with contextlib.suppress(Exception):\n    f()", "1: swallows every error"),
        ("with suppress(OSError):\n    f()", ""),
        ("from pickle import loads", "1: imports what unpickles"),
        ("def f():\n    import dill.source", "2: imports what unpickles"),
    ],
)
def test_a_breach_is_seen(source: str, breach: str) -> None:
    assert breaches(source) == ([breach] if breach else [])
