"""What a model wrote is evaluated without being run, and within bounds."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.agent.expressions import (
    NotAllowed,
    counterexample,
    difference,
    evaluate,
    functions,
    math_check,
    run_tests,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1+2)*3", 9),
        ("7/2", Fraction(7, 2)),
        ("-7//2", -4),
        ("2**10 % 1000", 24),
        ("not (True and False)", True),
        ("3 < 4", True),
    ],
)
def test_expressions_have_their_exact_value(text: str, value: object) -> None:
    assert evaluate(text, {}) == value


@given(st.integers(), st.integers(), st.integers(1, 10**6))
def test_arithmetic_is_that_of_python(a: int, b: int, m: int) -> None:
    names = {"a": a, "b": b, "m": m}
    assert evaluate("(a * b - b) % m + a // m", names) == (a * b - b) % m + a // m


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "'a' * 3",
        "[x for x in y]",
        "lambda: 1",
        "1 if True else 2",
        "x.y",
        "f(*a)",
        "1/0",
        "2**65",
        "((3**64)**64)**64",
        "(" * 300 + "1" + ")" * 300,
        "a +",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(NotAllowed):
        evaluate(text, {})


def test_a_package_that_calls_without_end_is_stopped() -> None:
    files = {"pkg/a.py": "def f(x):\n    return f(x)\n"}
    with pytest.raises(NotAllowed):
        functions(files, "pkg")["f"](1)
    doubling = "".join(
        f"def f{i}(x):\n    return f{i - 1}(x) + f{i - 1}(x)\n\n" for i in range(1, 40)
    )
    files = {"pkg/a.py": "def f0(x):\n    return x\n\n" + doubling}
    with pytest.raises(NotAllowed, match="more than 100000 calls"):
        functions(files, "pkg")["f39"](1)


@pytest.mark.parametrize(
    "body", ["print(x)", "x = 1\n    return x", "while True:\n        pass", "return"]
)
def test_a_function_must_be_one_return(body: str) -> None:
    with pytest.raises(NotAllowed, match="must be one return"):
        functions({"pkg/a.py": f"def f(x):\n    {body}\n"}, "pkg")


def test_the_first_failing_assertion_is_shown_alone() -> None:
    files = {
        "pkg/a.py": "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return x\n",
        "tests/test_a.py": 'assert f(1) == 2, "f"\nassert g(1) == 3, "G"\nassert g(2) == 4, "H"\n',
    }
    assert run_tests(files) == "1 failed, 1 passed\ntests/test_a.py: AssertionError: G; got 1"


def test_identities_and_tautologies_are_decided() -> None:
    assert difference("(x+y)**2", "x**2+2*x*y+y**2") is None
    point = difference("(x+y)**2", "x**2+y**2")
    assert point is not None
    assert counterexample("p or not p") is None
    assert counterexample("p or q") == {"p": False, "q": False}
    assert math_check("valid", "p or q", "").startswith("not valid")
    with pytest.raises(NotAllowed, match="at most 12 atoms"):
        counterexample(" or ".join(f"a{i}" for i in range(13)))
