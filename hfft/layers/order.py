"""The order in which the code of ``forward`` uses the parts of a module, read without running it."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that hold others in order and, but for a Sequential, are not called themselves."""


def order_of_use(module: nn.Module) -> dict[str, bool]:
    """Return own parameters and children in the order in which ``forward`` uses them, and whether it names them.

    Lists that one loop goes through together give their elements in turns: ``norms.0, layers.0, norms.1, ...``. Where a
    loop inside goes through an element of one of them and uses the others there, these come with its first part:
    ``stages.0.0, norms.0, stages.0.1, stages.1.0, norms.1, ...``.
    """
    registered = [*module._parameters, *(name for name, child in module._modules.items() if child is not None)]
    if isinstance(module, CONTAINERS):
        return dict.fromkeys(registered, True)
    uses = _Uses(module)
    # lists are gone through, other modules called: `if self.norm is not None` is no use yet
    called = {name for part in uses.parts for name, is_called in part if is_called}
    called -= {name for name, child in module._modules.items() if isinstance(child, CONTAINERS)}
    left, order = set(registered), []
    for part in uses.parts:
        names = [name for name in _order_in_part(part, called) if name in left]
        left -= set(names)
        order += _with_turns(module, names, uses.inner)
    _insert_unnamed(order, registered, left)
    left.discard(str(getattr(module, "base_model_prefix", "")))  # often reached by getattr
    is_read = any(uses.parts)  # code that cannot be read names nothing
    return {name: name not in left or not is_read for name in order}


def _order_in_part(part: list[tuple[str, bool]], called: set[str]) -> list[str]:
    """Return what a stretch of code uses, by the first call of each; ``called`` is what any of the code calls."""
    called_here = {name for name, is_called in part if is_called}
    used = [name for name, is_called in part if is_called or name not in called | called_here]
    # of mere mentions the last one counts: `len(self.blocks)` comes before `zip(self.norms, self.blocks)`
    places = {name: used.index(name) if name in called_here else place for place, name in enumerate(used)}
    return sorted(places, key=places.__getitem__)


def _with_turns(module: nn.Module, names: list[str], inner: dict[str, list[str]]) -> list[str]:
    """Put the elements of lists that one loop goes through together in turns, in place of the lists."""
    lists = {name: len(child) for name in names if isinstance(child := module._modules.get(name), nn.ModuleList)}
    if len(lists) < 2:
        return names
    turns = [turn for index in range(max(lists.values())) for turn in _turn(module, index, lists, inner)]
    first = min(names.index(name) for name in lists)
    return [*names[:first], *turns, *(name for name in names[first:] if name not in lists)]


def _insert_unnamed(order: list[str], registered: list[str], unnamed: set[str]) -> None:
    """Put what the code does not name behind what it was registered behind, in place."""
    for index, name in enumerate(registered):
        if name in unnamed:
            before = registered[index - 1] if index else None
            after = [place + 1 for place, other in enumerate(order) if other.partition(".")[0] == before]
            order.insert(max(after, default=0), name)


def _turn(module: nn.Module, index: int, lists: dict[str, int], inner: dict[str, list[str]]) -> list[str]:
    """Return what one turn of a loop over several lists uses."""
    inside = {used for users in inner.values() for used in users if used not in inner}
    turn: list[str] = []
    for name in (name for name in lists if index < lists[name] and name not in inside):
        users = [user for user in inner.get(name, ()) if index < lists.get(user, 0)]
        if name not in users or len(users) == 1:
            turn.append(f"{name}.{index}")
            continue
        parts = [f"{name}.{index}.{part}" for part in module.get_submodule(f"{name}.{index}")._modules]
        turn += [parts[0] if user == name else f"{user}.{index}" for user in users] + parts[1:]
    return turn


class _Uses(ast.NodeVisitor):
    """Reads in the code of a module's ``forward`` which of its attributes are used, in the order of evaluation.

    Methods of the module that it calls are read as well, and of ``if self.norm is None`` or ``if self.pre_norm`` only
    the branch that is taken.

    Attributes:
        parts: (name, whether it is called) of each use, cut after each outermost loop.
        inner: list whose elements a loop within a loop goes through -> the lists whose elements that loop uses.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts: list[list[tuple[str, bool]]] = [[]]
        self.inner: dict[str, list[str]] = {}
        self._elements: dict[str, str] = {}  # loop variable -> the list that it goes through
        self._inside: str | None = None  # the list whose element is gone through
        self._module = module
        self._depth = 0
        self._read: set[Callable[..., Any]] = set()
        self._follow(getattr(type(module), "forward", None))

    def _follow(self, function: Any) -> None:
        function = inspect.unwrap(function) if callable(function) else None
        if inspect.isfunction(function) and function not in self._read:
            self._read.add(function)
            for statement in _statements(function):
                self.visit(statement)

    def _follow_super(self, name: str) -> None:
        """Read the method of the nearest class that has not been read."""
        methods = (inspect.unwrap(vars(cls)[name]) for cls in type(self._module).__mro__ if name in vars(cls))
        self._follow(next((method for method in methods if method not in self._read), None))

    def _use(self, name: str, called: bool) -> None:
        method = inspect.getattr_static(type(self._module), name, None)
        if inspect.isfunction(method):
            self._follow(method)
        else:
            self.parts[-1].append((name, called))

    def visit_Call(self, node: ast.Call) -> None:
        """Take the arguments first: in ``self.head(self.norm(x))`` the norm is used first."""
        for argument in (*node.args, *node.keywords):
            self.visit(argument)
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name | ast.Call):
            if _is_self(node.func.value):
                return self._use(node.func.attr, called=True)
            if isinstance(node.func.value, ast.Call) and getattr(node.func.value.func, "id", None) == "super":
                return self._follow_super(node.func.attr)
        return self.visit(node.func)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Note what is read without a call, such as a list that is gone through."""
        if _is_self(node.value):
            self._use(node.attr, called=False)
        else:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        """Leave out the branch that is not taken."""
        taken = self._truth(node.test)
        branches = (node.body, node.orelse) if taken is None else ((node.body if taken else node.orelse),)
        if taken is None:
            self.visit(node.test)
        for statement in (statement for branch in branches for statement in branch):
            self.visit(statement)

    def _truth(self, test: ast.expr) -> bool | None:
        """Return whether ``self.name is None`` or ``self.name`` holds, or their negations; None of other tests."""
        match test:
            case ast.UnaryOp(ast.Not(), operand):
                inner = self._truth(operand)
                return None if inner is None else not inner
            case ast.Compare(ast.Attribute(owner, name), [ast.Is() | ast.IsNot() as comparison], [ast.Constant(None)]):
                if _is_self(owner) and self._has(name):
                    return (getattr(self._module, name) is None) == isinstance(comparison, ast.Is)
            case ast.Attribute(owner, name) if _is_self(owner) and self._has(name) and name != "training":
                value = getattr(self._module, name)
                return value if isinstance(value, bool) else None
        return None

    def _has(self, name: str) -> bool:
        """Say whether the module itself holds an attribute; a property's code is not to be run."""
        held = vars(self._module)
        return name in held or any(name in held[kind] for kind in ("_modules", "_parameters", "_buffers"))

    def visit_For(self, node: ast.For) -> None:
        """Cut after the loop; keep which lists its variables go through."""
        outer = self._elements, self._inside
        for target, iterated in _gone_through(node.target, node.iter):
            if isinstance(iterated, ast.Attribute) and _is_self(iterated.value):
                self._elements = {**self._elements, target: iterated.attr}
            elif isinstance(iterated, ast.Name) and iterated.id in outer[0]:
                self._inside = outer[0][iterated.id]
                self._elements = {**self._elements, target: self._inside}
        self._loop(node.iter, *node.body, *node.orelse)
        self._elements, self._inside = outer

    def visit_Name(self, node: ast.Name) -> None:
        """Note which elements a loop within a loop uses."""
        if self._inside is not None and node.id in self._elements:
            users = self.inner.setdefault(self._inside, [])
            if self._elements[node.id] not in users:
                users.append(self._elements[node.id])

    def visit_While(self, node: ast.While) -> None:
        """Cut after the loop."""
        self._loop(node.test, *node.body, *node.orelse)

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        """Take what is gone through first, and cut after it."""
        self._loop(*node.generators, node.elt)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        """As for a list."""
        self.visit_ListComp(node)

    def _loop(self, *nodes: ast.AST) -> None:
        self._depth += 1
        for node in nodes:
            self.visit(node)
        self._depth -= 1
        if self._depth == 0:  # a loop within a loop is no end
            self.parts.append([])


def _gone_through(target: ast.expr, iterated: ast.expr) -> list[tuple[str, ast.expr]]:
    """Return (variable, what it goes through) of a loop, also of one over ``enumerate`` and ``zip``."""
    if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) and iterated.args:
        if iterated.func.id == "enumerate" and isinstance(target, ast.Tuple):
            return _gone_through(target.elts[-1], iterated.args[0])
        if iterated.func.id == "zip" and isinstance(target, ast.Tuple):
            pairs = zip(target.elts, iterated.args, strict=False)
            return [pair for element, argument in pairs for pair in _gone_through(element, argument)]
    return [(target.id, iterated)] if isinstance(target, ast.Name) else []


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


@functools.lru_cache(maxsize=512)
def _statements(function: Callable[..., Any]) -> list[ast.stmt]:
    """Return the body of a function, empty where its source is not there."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return []
    return definition.body if isinstance(definition, ast.FunctionDef) else []
