"""Every small change of a module's text that a careless hand, or an attacker's patch, might make. Pure.

- comparisons one step aside or turned round, conditions turned round, one half of an `and` or `or` left out
- numbers one greater, truths turned round, strings that decide something (not sentences) spoiled
- arithmetic turned round; a `raise`, or a call made for its effect, left out; a returned value replaced by None
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True, slots=True)
class Change:
    """In `line` (counted from 1) of a module, `was` becomes `becomes`; `start` and `stop` are bytes of its text."""

    line: int
    was: str
    becomes: str
    start: int
    stop: int

    def made(self, source: bytes) -> bytes:
        """The module's text with this change."""
        return source[: self.start] + self.becomes.encode() + source[self.stop :]


def changes(source: bytes) -> list[Change]:
    """Every change of a module, in the order of its text; none that would not compile."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in _deciding(tree):
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        was = source[start:stop].decode()
        for becomes in _instead(node):
            change = Change(node.lineno, was, becomes, start, stop)
            try:
                compile(change.made(source), "changed", "exec")
            except (SyntaxError, ValueError):
                continue
            found.append(change)
    return sorted(set(found), key=lambda change: (change.start, change.stop, change.becomes))


def _deciding(tree: ast.Module) -> Iterator[ast.expr | ast.stmt]:
    """The nodes whose meaning a program's result depends on: no annotations, no sentences, no docstrings.

    No assertions either: they tell the type checker what is so.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.expr | ast.stmt):
            yield node
        waiting += _children(node)


def _children(node: ast.AST) -> list[ast.AST]:
    match node:
        case ast.AnnAssign():
            return [node.value] if node.value else []
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            defaults = [default for default in [*node.args.defaults, *node.args.kw_defaults] if default is not None]
            return [*defaults, *_undocumented(node.body)]
        case ast.ClassDef() | ast.Module():
            return [*_undocumented(node.body)]
        case ast.Raise() | ast.Assert():
            return []
        case ast.JoinedStr():
            return []
        case ast.Call() if _says(node):
            return []
        case ast.If() if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return []
    return list(ast.iter_child_nodes(node))


def _undocumented(body: list[ast.stmt]) -> list[ast.stmt]:
    return [
        statement
        for statement in body
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
    ]


def _says(node: ast.Call) -> bool:
    """True for a line of the log, whose words nothing depends on."""
    called = node.func
    return (
        isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id in ("log", "_log")
    )


def _instead(node: ast.expr | ast.stmt) -> list[str]:
    """What may stand in place of a node, as text."""
    if isinstance(node, ast.stmt):
        return _instead_of_statement(node)
    if isinstance(node, ast.Constant):
        return _other_constant(node.value)
    return [f"({ast.unparse(other)})" for other in _other_expressions(node)]


def _instead_of_statement(node: ast.stmt) -> list[str]:
    match node:
        case ast.Raise():
            return ["pass"]
        case ast.Expr(value=ast.Call() as call):
            return [] if _says(call) else ["pass"]
        case ast.Expr(value=ast.Await()):
            return ["pass"]
        case ast.Return(value=ast.expr() as value):
            return [] if isinstance(value, ast.Constant) else ["return None"]
        case ast.Break():
            return ["continue"]
        case ast.Continue():
            return ["break"]
    return []


def _other_expressions(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.Compare():
            return [_with_operator(node, at) for at in range(len(node.ops))]
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            fewer = [[*node.values[:at], *node.values[at + 1 :]] for at in range(len(node.values))]
            halves = [values[0] if len(values) == 1 else ast.BoolOp(node.op, values) for values in fewer]
            return [ast.BoolOp(other, node.values), *halves]
        case ast.UnaryOp(op=ast.Not()):
            return [node.operand]
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            return [ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)]
        case ast.IfExp():
            return [node.body, node.orelse]
    return []


def _with_operator(node: ast.Compare, at: int) -> ast.Compare:
    changed = copy.deepcopy(node)
    kind = type(changed.ops[at])
    changed.ops[at] = _COMPARED[kind]()
    return changed


def _other_constant(value: object) -> list[str]:
    match value:
        case bool():
            return [str(not value)]
        case int() | float():
            return [repr(value + 1)]
        case str() if value and " " not in value:
            return [repr(f"X{value}")]
        case bytes() if value:
            return [repr(b"X" + value)]
    return []
