"""The catalogue of known bugs: each breaks a requirement, and something of the kit sees it."""

import json
import re
from pathlib import Path
from typing import Any

from conformance.agent.rules import RULES
from conformance.bugs import Bug
from conformance.cases import all_cases
from conformance.checks.laws import MODEL_LAWS, OPERATION_LAWS
from conformance.mutants import BUGS
from conformance.spec import requirements
from k2ref.spec import read_toml, spec_path

KNOWN = read_toml("bugs.toml")["bug"]
THREADS = {thread for bug in KNOWN for thread in bug["threads"]}


def chat_files() -> list[Path]:
    return [p for p in spec_path("chat").glob("*.json") if "schema" not in p.name]


def cases_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


def seers() -> set[str]:
    """List what a bug may be seen by: planted bugs, cases, laws, kinds of chat cases."""
    laws = {f"law-{law.name}" for law in (*OPERATION_LAWS, *MODEL_LAWS)}
    chat = {
        f"chat:{kind}"
        for path in chat_files()
        for case in cases_of(path)
        for kind in case["catches"]
    }
    return set(BUGS) | {case.id for case in all_cases(0)} | laws | chat


def test_every_known_bug_breaks_a_requirement_and_is_seen_or_has_a_reason() -> None:
    for bug in KNOWN:
        assert bug["threads"], bug["what"]
        assert set(bug["requirements"]) <= set(requirements()), bug["what"]
        assert set(bug.get("seen_by", ())) <= seers(), bug["what"]
        assert bool(bug.get("seen_by")) != bool(bug.get("reason")), bug["what"]


def test_threads_can_be_looked_up_and_stand_in_one_list() -> None:
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", thread) for thread in THREADS)
    told: set[str] = {bug.thread for bug in BUGS.values() if isinstance(bug, Bug) and bug.thread}
    told |= {t for r in requirements().values() if r.level < "L6" for t in r.threads}
    assert told - THREADS == set()


def test_every_thread_about_the_chat_format_is_named_by_a_case_a_requirement_or_a_rule() -> None:
    """A kind of case is too wide a net: each thread must be found where its bug is caught."""
    links = {link for path in chat_files() for case in cases_of(path) for link in case["links"]}
    links |= {thread for requirement in requirements().values() for thread in requirement.threads}
    sources = " ".join(rule.source for rule in RULES)
    chat = [
        bug for bug in KNOWN if any(seer.startswith("chat:") for seer in bug.get("seen_by", ()))
    ]
    threads = [thread for bug in chat for thread in bug["threads"]]
    assert len(threads) > 50
    assert [t for t in threads if t not in links and t not in sources] == []


def test_every_numeric_requirement_with_a_thread_prevents_a_known_bug() -> None:
    broken = {id_ for bug in KNOWN for id_ in bug["requirements"]}
    threaded = {r.id for r in requirements().values() if r.threads and r.level < "L6"}
    assert threaded - broken == set()
