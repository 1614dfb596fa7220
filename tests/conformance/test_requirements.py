"""Requirements and checks, held together in both directions."""

import re
from pathlib import Path

from conformance.cases import all_cases
from conformance.checks.generation import REQUIREMENTS
from conformance.checks.laws import MODEL_LAWS, OPERATION_LAWS
from conformance.checks.model import LAYER_REQUIREMENTS
from conformance.mutants import BUGS
from conformance.profiles import build_tiny, prompts
from conformance.spec import LEVELS, requirements, scored
from k2ref.spec import read_toml

NUMERIC = LEVELS[:6]


def checked(tmp_path: Path) -> set[str]:
    """List the requirements that some check speaks of."""
    cited = {c.requirement for c in all_cases(0)} | {law.requirement for law in OPERATION_LAWS}
    cited |= {law.requirement for law in MODEL_LAWS} | set(REQUIREMENTS) | {"model:routing"}
    cited |= {f"layer:{name}" for name in LAYER_REQUIREMENTS}
    return cited | {p.requirement for p in prompts(build_tiny(tmp_path, seed=0), 0)}


def test_every_requirement_has_a_check_and_every_check_a_requirement(tmp_path: Path) -> None:
    numeric = {r.id for r in requirements().values() if r.level in NUMERIC}
    assert checked(tmp_path) == numeric


def test_requirements_are_complete_sentences_with_sources_and_threads() -> None:
    for r in requirements().values():
        assert re.fullmatch(r"[a-z0-9]+:[a-z0-9-]+", r.id), r.id
        assert r.must.endswith("."), r.id
        assert r.level in LEVELS, r.id
        assert r.source, r.id
        assert r.catches, r.id
        for thread in r.threads:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", thread), thread


def test_each_requirement_is_scored_or_has_a_reason_not_to_be() -> None:
    not_scored = set(read_toml("scored/2026.11.toml")["not_scored"])
    assert scored() | not_scored == set(requirements())
    assert not scored() & not_scored
    questions = {c.requirement for c in all_cases(0) if c.is_question}
    assert questions == not_scored


def test_threads_of_bugs_can_be_looked_up() -> None:
    for bug in BUGS.values():
        assert not bug.thread or re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", bug.thread), bug.name
