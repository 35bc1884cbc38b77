"""The run-time check of annotations that `conftest` switches on: types by beartype, and shapes by jaxtyping where a signature has some."""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import inspect
import re
import sys
import types
import typing
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped

CONF = BeartypeConf(is_pep484_tower=True, violation_type=TypeError)  # an int is a float, as for every type checker
MOST = 100  # calls of a function in one test that have their shapes checked: a search makes a hundred thousand alike
CALLS: Counter[Any] = Counter()
TYPES, SHAPED, LOOSE = "__types_checked__", "__shapes_checked__", "__loosely_checked__"


def install(package: str) -> None:
    """From here on, imports of the package and its modules are checked: what is imported already is not.

    Functions of modules and methods of classes are; a ``def`` within a function is not: it would be made checkable anew at each call of
    that, which took two fifths of all tests' time.
    """
    sys.meta_path.insert(0, _Finder(package))


def types_checked(function: Any) -> Any:
    """`beartype`; the module's protocols are made checkable first, as it refuses to decorate what names a plain one."""
    for value in list(vars(sys.modules[function.__module__]).values()):
        if isinstance(value, type) and getattr(value, "_is_protocol", False) and value is not typing.Protocol:
            typing.runtime_checkable(value)
    return beartype(conf=CONF)(function)


def shapes_checked(function: Any) -> Any:
    """The same, with names of sizes that hold throughout a call; of a dataclass, its fields. After so many calls in a test, neither."""
    if isinstance(function, type) or inspect.isgeneratorfunction(function):
        return loosely_checked(function)
    checked = types_checked(function)

    @functools.wraps(checked)
    def call(*given: Any, **named: Any) -> Any:
        CALLS[function] += 1
        if CALLS[function] > MOST:
            return function(*given, **named)
        with jaxtyped("context"):
            return checked(*given, **named)

    return call


def loosely_checked(function: Any) -> Any:
    """As `shapes_checked`, where annotations name what only type checkers know; slower, for every argument is checked twice."""
    return jaxtyped(function, typechecker=types_checked)


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: types.ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.package and not name.startswith(f"{self.package}."):
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path, target)
        if found is not None and type(found.loader) is importlib.machinery.SourceFileLoader:
            found.loader = _Loader(found.loader.name, found.loader.path)
        return found


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles from the source each time: the bytecode beside it is of the module without checks."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        decorated(tree)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def decorated(tree: ast.Module) -> None:
    """Puts the checks on what a module defines, below all other decorators of a function and above those of a class."""
    before = next((place for place, node in enumerate(tree.body) if not _opening(node)), None)
    if before is None:
        return
    shapes = _imported(node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping")
    absent = _imported(inner for node in tree.body  # names that only type checkers have: jaxtyping leaves them out, beartype would look
                       if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
                       for inner in node.body if isinstance(inner, (ast.Import, ast.ImportFrom)))
    checks = {types_checked: TYPES, shapes_checked: SHAPED, loosely_checked: LOOSE}
    names = [ast.alias(check.__name__, name) for check, name in checks.items()]
    tree.body.insert(before, ast.copy_location(ast.ImportFrom(__name__, names, 0), tree.body[before]))
    _decorate(tree.body, shapes, absent)


def _imported(nodes: Iterable[ast.Import | ast.ImportFrom]) -> set[str]:
    return {alias.asname or alias.name for node in nodes for alias in node.names}


def _opening(node: ast.stmt) -> bool:
    """Whether it must come first in a module: its text, and imports from the future."""
    return (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) or (
        isinstance(node, ast.ImportFrom) and node.module == "__future__")


def _decorate(body: list[ast.stmt], shapes: set[str], absent: set[str]) -> None:
    for node in body:
        if isinstance(node, ast.ClassDef):
            node.decorator_list.insert(0, ast.copy_location(ast.Name(SHAPED, ast.Load()), node))
            _decorate(node.body, shapes, absent)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            words = _names(node)
            check = LOOSE if words & absent else SHAPED if words & (shapes | {"jaxtyping"}) else TYPES
            node.decorator_list.append(ast.copy_location(ast.Name(check, ast.Load()), node))
        elif isinstance(node, (ast.If, ast.Try)):
            handled = [handler.body for handler in node.handlers] + [node.finalbody] if isinstance(node, ast.Try) else []
            for part in (node.body, node.orelse, *handled):
                _decorate(part, shapes, absent)


def _names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """All words of its annotations, in text too, and of those of variables inside."""
    given = function.args
    told = [one.annotation for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if one]
    inside = [node.annotation for node in ast.walk(function) if isinstance(node, ast.AnnAssign)]
    written = [ast.unparse(annotation) for annotation in (*told, function.returns, *inside) if annotation]
    return {word for text in written for word in re.findall(r"\w+", text)}
