"""Small faults that can be put into Python source: one comparison turned, one argument dropped, one statement deleted.

Not all of a module is open to faults. What only a person reads, such as the text of a log line, and what only a type checker or a
developer needs, such as annotations and assertions, is left as it is.
"""

import ast
import dataclasses
import itertools
from collections.abc import Iterator

_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
}
_TURNED = {"any": "all", "all": "any", "min": "max", "max": "min"}

# Larger integers are mostly sizes and limits, which may as well be one more.
_SMALL = (-1, 0, 1, 2)

# Arguments that no test needs to notice: `zip(strict=True)` is an assertion, only a debugger shows a thread's name, and the look of
# a chart's text and lines is for the eye to judge.
_LEFT_OUT = ("strict", "daemon", "name", "color", "linestyle", "linewidth", "fontsize", "fontweight", "ha", "va", "alpha", "zorder")


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
    """A replacement of a part of a module's source.

    Attributes:
      line: the first line of the part, counted from 1.
      start: the place in the source at which the part begins, in characters.
      end: the place after the part.
      text: the text that replaces it.
      what: the fault in a few words, such as `< becomes <=`.
    """

    line: int
    start: int
    end: int
    text: str
    what: str

    def applied(self, source: str) -> str:
        """Returns the module's source with the fault in it."""
        return source[: self.start] + self.text + source[self.end :]


def faults(source: str) -> list[Fault]:
    """Returns all faults that a module is open to, in the order of their places."""
    return sorted(set(_Finder(source).visit(ast.parse(source))))


class _Finder:
    def __init__(self, source: str) -> None:
        self._source = source
        # The syntax tree counts columns in bytes of UTF-8.
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def visit(self, node: ast.AST) -> Iterator[Fault]:
        """Yields the faults of a node of the syntax tree and of all nodes below it."""
        if self._is_closed(node):
            return
        yield from self._of(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.visit(child)

    def _is_closed(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
            return True
        if isinstance(node, ast.keyword) and node.arg in _LEFT_OUT:
            return True
        if isinstance(node, ast.Expr):
            return self._is_closed(node.value)
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith(("__name__", "TYPE_CHECKING", "sys.platform")):
            return True
        return isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("_log.", "logging.", "tqdm"))

    def _of(self, node: ast.AST) -> Iterator[Fault]:
        match node:
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                before, after = _COMPARISONS[type(operator)]
                yield self._between(left, right, before, after)
            case ast.BoolOp(op=operator, values=values):
                before, after = ("and", "or") if isinstance(operator, ast.And) else ("or", "and")
                for left, right in itertools.pairwise(values):
                    yield self._between(left, right, before, after)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC and not _is_text(left, right):
                before, after = _ARITHMETIC[type(operator)]
                yield self._between(left, right, before, after)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield self._fault(node, self._text(operand), "not dropped")
            case ast.Constant(value=bool(value)):
                yield self._fault(node, str(not value), f"{value} becomes {not value}")
            case ast.Constant(value=int(value)) if value in _SMALL:
                yield self._fault(node, str(value + 1), f"{value} becomes {value + 1}")
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not isinstance(test, ast.Constant):
                yield self._fault(test, f"(not ({self._text(test)}))", "condition negated")
            case ast.Call(func=ast.Name(id=name)) if name in _TURNED:
                yield self._fault(node.func, _TURNED[name], f"{name} becomes {_TURNED[name]}")
                yield from self._without_keywords(node)
            case ast.Call(func=function, args=arguments) if ast.unparse(function).endswith("suppress"):
                for argument in arguments:
                    yield self._without(arguments, argument)
            case ast.Call():
                yield from self._without_keywords(node)
            case ast.ExceptHandler(type=ast.Tuple(elts=kinds)):
                for kind in kinds:
                    yield self._without(kinds, kind)
            case ast.ExceptHandler(type=ast.expr() as kind):
                yield self._fault(kind, "()", f"{self._text(kind)} not caught")
            case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
                yield self._fault(node, "pass", "statement deleted")
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield self._fault(node, "pass", "statement deleted")

    def _without_keywords(self, call: ast.Call) -> Iterator[Fault]:
        for keyword in call.keywords:
            if keyword.arg and keyword.arg not in _LEFT_OUT:
                parts = [part for part in [*call.args, *call.keywords] if part is not keyword]
                text = f"{self._text(call.func)}({', '.join(map(self._text, parts))})"
                yield self._fault(call, text, f"{keyword.arg}= dropped", line=keyword.value.lineno)

    def _without(self, parts: list[ast.expr], part: ast.expr) -> Fault:
        """Returns the fault that drops an exception from the elements of a tuple or the arguments of `suppress`."""
        others = [self._text(other) for other in parts if other is not part]
        start, end = self._place(parts[0])[0], self._place(parts[-1])[1]
        return Fault(part.lineno, start, end, ", ".join(others), f"{self._text(part)} not caught")

    def _between(self, left: ast.expr, right: ast.expr, before: str, after: str) -> Fault:
        start, end = self._place(left)[1], self._place(right)[0]
        gap = self._source[start:end]
        at = gap.find(before)
        line = (left.end_lineno or left.lineno) + gap.count("\n", 0, at)
        return Fault(line, start + at, start + at + len(before), after, f"{before} becomes {after}")

    def _fault(self, node: ast.AST, text: str, what: str, *, line: int | None = None) -> Fault:
        start, end = self._place(node)
        return Fault(line or node.lineno, start, end, text, what)  # type: ignore[attr-defined]

    def _text(self, node: ast.AST) -> str:
        start, end = self._place(node)
        return self._source[start:end]

    def _place(self, node: ast.AST) -> tuple[int, int]:
        def place(line: int, column: int) -> int:
            return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def _is_text(*sides: ast.expr) -> bool:
    return any(isinstance(side, ast.JoinedStr | ast.List) or isinstance(getattr(side, "value", None), str) for side in sides)
