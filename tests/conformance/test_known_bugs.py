"""The catalogue of known bugs: each breaks a requirement, and something of the kit sees it."""

import json
import re

from conformance.bugs import Bug
from conformance.cases import all_cases
from conformance.checks.laws import MODEL_LAWS, OPERATION_LAWS
from conformance.mutants import BUGS
from conformance.spec import requirements
from k2ref.spec import read_toml, spec_path

KNOWN = read_toml("bugs.toml")["bug"]
THREADS = {thread for bug in KNOWN for thread in bug["threads"]}


def seers() -> set[str]:
    """List what a bug may be seen by: planted bugs, cases, laws, kinds of chat cases."""
    laws = {f"law-{law.name}" for law in (*OPERATION_LAWS, *MODEL_LAWS)}
    files = [p for p in spec_path("chat").glob("*.json") if "schema" not in p.name]
    chat = {
        f"chat:{kind}"
        for path in files
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]
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


def test_every_numeric_requirement_with_a_thread_prevents_a_known_bug() -> None:
    broken = {id_ for bug in KNOWN for id_ in bug["requirements"]}
    threaded = {r.id for r in requirements().values() if r.threads and r.level < "L6"}
    assert threaded - broken == set()
