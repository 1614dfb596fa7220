"""The page of operations says what the code and the vectors say."""

import inspect
import re

import pytest

from conformance import textbook
from conformance.cases import all_cases
from k2ref import oracle
from k2ref.spec import spec_path

TEXT = spec_path("operations.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def test_every_operation_of_the_vectors_has_a_section() -> None:
    assert set(SECTIONS) == set(textbook.OPERATIONS)


@pytest.mark.parametrize("op", SECTIONS)
def test_a_section_has_the_arguments_and_requirements_of_its_operation(op: str) -> None:
    signature = SECTIONS[op].split("```")[1].partition("->")[0]
    told = re.findall(r"(?<![=\w.-])([a-z]\w*)(?=[=,)])", signature.partition("(")[2])
    assert told == list(inspect.signature(getattr(oracle, op)).parameters)
    cited = set(re.findall(r"`([a-z0-9]+:[a-z0-9-]+)`", SECTIONS[op]))
    assert cited == {case.requirement for case in all_cases(0) if case.op == op}
