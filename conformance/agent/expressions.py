"""Arithmetic and propositional expressions, evaluated by walking their syntax tree.

The kit never executes code that a model wrote. What the families ask for fits in this subset:
numbers, names, + - * / // % **, comparisons, and/or/not, and calls of given functions.
"""

import ast
import hashlib
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

PRIME = (1 << 61) - 1
POINTS = 12
MAX_ATOMS = 12
MAX_POWER = 64
MAX_BITS = 100_000
MAX_CALLS = 100_000  # of one package: functions that call functions can grow without end


class NotAllowed(ValueError):
    """The expression is outside the subset."""


BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def evaluate(text: str | ast.expr, names: Mapping[str, Any]) -> Any:
    """Evaluate an expression exactly: text, values of its names -> number or truth value."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body if isinstance(text, str) else text
        return _value(tree, names)
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise NotAllowed(f"cannot evaluate {ast_text(text)}: {error}") from None


def ast_text(text: str | ast.expr) -> str:
    """Show an expression in a message."""
    return (text if isinstance(text, str) else ast.unparse(text))[:80]


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() as value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _value(left, names), _value(right, names))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, names)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return not _value(inner, names)
        case ast.BoolOp(op=op, values=values):
            results = [bool(_value(v, names)) for v in values]
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARE:
            return COMPARE[type(op)](_value(left, names), _value(right, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if callable(names.get(name)):
            return names[name](*(_value(arg, names) for arg in args))
    raise NotAllowed(f"not allowed here: {ast_text(node)}")


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Div):
        return Fraction(left) / Fraction(right)
    if isinstance(op, ast.Pow):
        if not isinstance(right, int) or not 0 <= right <= MAX_POWER:
            raise NotAllowed(f"exponents go from 0 to {MAX_POWER}, got {right}")
        if int(left).bit_length() * right > MAX_BITS:
            raise NotAllowed(f"numbers have at most {MAX_BITS} bits")
        return left**right
    if type(op) not in BINARY:
        raise NotAllowed(f"operator {type(op).__name__} is not allowed")
    return BINARY[type(op)](left, right)


def names_of(text: str) -> list[str]:
    """List the variables of an expression."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise NotAllowed(f"cannot read {text[:80]!r}: {error}") from None
    return sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})


def math_check(op: str, a: str, b: str) -> str:
    """Answer one question of exact mathematics in words."""
    if op == "eval":
        return f"{a} = {evaluate(a, {})}"
    if op == "equal":
        point = difference(a, b)
        return f"not equal: at {point}" if point is not None else "equal at all points tried"
    if op == "valid":
        assignment = counterexample(a)
        return f"not valid: false at {assignment}" if assignment is not None else "valid"
    raise NotAllowed(f"op must be eval, equal or valid, got {op!r}")


def difference(a: str, b: str) -> dict[str, int] | None:
    """Find a point where two polynomials differ, None when they agree at all points tried."""
    names = sorted({*names_of(a), *names_of(b)})
    for index in range(POINTS):
        point = {name: _point(f"{a}|{b}", index, name) for name in names}
        if (evaluate(a, point) - evaluate(b, point)) % PRIME:
            return point
    return None


def _point(text: str, index: int, name: str) -> int:
    digest = hashlib.sha256(f"{text}|{index}|{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") if index else 1 + digest[0] % 9


def counterexample(formula: str) -> dict[str, bool] | None:
    """Find an assignment that makes a formula false."""
    names = names_of(formula)
    if len(names) > MAX_ATOMS:
        raise NotAllowed(f"at most {MAX_ATOMS} atoms, got {len(names)}")
    for values in itertools.product([True, False], repeat=len(names)):
        point = dict(zip(names, values, strict=True))
        if not evaluate(formula, point):
            return point
    return None


def functions(files: Mapping[str, str], folder: str) -> dict[str, Callable[[int], Any]]:
    """Read a package of one-expression functions: files -> name -> function of one number."""
    found: dict[str, Callable[[int], Any]] = {}
    calls = itertools.count()
    for path, text in sorted(files.items()):
        if not (path.startswith(folder + "/") and path.endswith(".py")):
            continue
        try:
            body = ast.parse(text).body
        except SyntaxError as error:
            raise NotAllowed(f"{path}: {error}") from None
        for node in body:
            if isinstance(node, ast.FunctionDef):
                found[node.name] = _function(path, node, found, calls)
    return found


def _function(
    path: str, node: ast.FunctionDef, scope: Mapping[str, Any], calls: Iterator[int]
) -> Callable[[int], Any]:
    body = [n for n in node.body if not isinstance(n, ast.Expr)]  # a docstring may stay
    if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
        raise NotAllowed(f"{path}: {node.name} must be one return of one expression")
    expression, names = body[0].value, [arg.arg for arg in node.args.args]

    def call(*values: int) -> Any:
        if next(calls) > MAX_CALLS:
            raise NotAllowed(f"{path}: more than {MAX_CALLS} calls")
        return evaluate(expression, {**scope, **dict(zip(names, values, strict=True))})

    return call


ASSERTION = re.compile(r'assert (\w+)\((-?\d+)\) == (-?\d+), "([^"]*)"')


def run_tests(files: Mapping[str, str]) -> str:
    """Check the assertions of tests/ in order and report the first that fails."""
    checked = 0
    try:
        package = functions(files, "pkg")
    except NotAllowed as error:
        return f"1 failed, 0 passed\n{error}"
    for path in sorted(path for path in files if path.startswith("tests/")):
        for name, x, wanted, message in ASSERTION.findall(files[path]):
            try:
                got = package[name](int(x))
            except (NotAllowed, KeyError, TypeError, ValueError) as error:
                return f"1 failed, {checked} passed\n{path}: {name}: {error!r}"
            if got != int(wanted):
                return f"1 failed, {checked} passed\n{path}: AssertionError: {message}; got {got}"
            checked += 1
    return f"{checked} passed"
