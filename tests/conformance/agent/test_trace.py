"""A record can be read, shown, exported and withheld; its graph leads from claims to results."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.agent import atif, graph, trace
from conformance.agent.attempt import attempt
from conformance.agent.driver import Driver
from conformance.agent.families import chase, needle
from conformance.agent.limits import Limits, Prices
from conformance.agent.messages import Call, Reply
from conformance.agent.mock import StrictEndpoint
from conformance.agent.record import Record, events, redacted, trim
from conformance.agent.run import Options
from conformance.agent.simulated import Oracle
from conformance.agent.smalltools import SmallTools
from conformance.agent.tasks import Task, write_world
from k2ref.errors import InputError

GOLDEN = """\
user: Follow a chain of files and add up their values. ⏎  ⏎ Start with the file cells/87b9e9bbeae0.…
   1 thinks (unverified): Turn 0. STATE {"i": 0, "sum": 0, "next": "cells/87b9e9bbeae0.txt", "calls…
   1 calls  read_file(path="cells/87b9e9bbeae0.txt")
     sees   1	value: 282 ⏎ 2	next: cells/c504ca856005.txt ⏎ [r1]
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., tuple[Task, Path]]:
    def record(task: Task | None = None, **options: object) -> tuple[Task, Path]:
        task = task or chase.make("trace", 10)
        write_world(task.files, tmp_path / "world")
        path = tmp_path / "turns.jsonl"
        endpoint = StrictEndpoint(Oracle(task.policy))
        chosen = Options(**options)  # type: ignore[arg-type]
        attempt(task, endpoint, root=tmp_path / "world", record=path, options=chosen)
        return task, path

    return record


Recorded = Callable[..., tuple[Task, Path]]


def test_the_text_view_is_the_golden_one(recorded: Recorded) -> None:
    task, path = recorded()
    lines = list(trace.view(trace.read(path)))
    assert "\n".join(lines[:4]) + "\n" == GOLDEN
    assert lines[-3] == f"  11 answers {task.answer}"
    assert lines[-2] == "end: done"
    assert lines[-1].startswith("spent: 10 steps, 10 calls, ")
    assert not any("thinks" in line for line in trace.view(trace.read(path), reasoning=False))


def test_the_export_keeps_reasoning_calls_and_their_observations(recorded: Recorded) -> None:
    prices = Prices("2026-01-01", "USD", 1.0, 0.1, 2.0)
    task, path = recorded(prices=prices, model="simulated oracle")
    made = atif.export(trace.read(path))
    assert made["agent"]["model_name"] == "simulated oracle"
    assert made["schema_version"] == "ATIF-v1.4"
    assert [step["step_id"] for step in made["steps"]] == list(range(1, 13))
    first = made["steps"][1]
    assert first["source"] == "agent"
    assert first["reasoning_content"].startswith("Turn 0.")
    assert first["tool_calls"][0]["function_name"] == "read_file"
    observed = first["observation"]["results"][0]
    assert observed["source_call_id"] == first["tool_calls"][0]["tool_call_id"]
    metrics = [step["metrics"] for step in made["steps"][1:]]
    final = made["final_metrics"]
    assert sum(m["prompt_tokens"] for m in metrics) == final["total_prompt_tokens"]
    assert sum(m["cost_usd"] for m in metrics) == pytest.approx(final["total_cost_usd"])
    assert made["steps"][-1]["message"] == task.answer
    json.dumps(made)


@pytest.mark.parametrize("currency", ["USD", "CNY", ""])
@pytest.mark.parametrize("withhold", [False, True])
def test_the_export_fits_the_published_models(
    recorded: Recorded, currency: str, withhold: bool
) -> None:
    """The package atif holds the format as pydantic models that forbid unknown fields."""
    published = pytest.importorskip("atif")
    prices = Prices("2026-01-01", currency, 1.0, 0.1, 2.0) if currency else None
    task, path = recorded(needle.make("atif", 24), prices=prices,
                          limits=Limits(window=40_000, reasoning_per_step=0))  # fmt: skip
    made = atif.export(trace.read(path), withhold_reasoning=withhold)
    read = published.Trajectory.model_validate(made)
    assert read.schema_version == "ATIF-v1.4"
    agents = [step for step in read.steps if step.source == "agent"]
    assert [bool(step.reasoning_content) for step in agents] == [not withhold] * len(agents)
    assert [step.observation is None for step in agents] == [False] * 24 + [True]
    assert (read.final_metrics.total_cost_usd is not None) == (currency == "USD")
    assert bool(read.final_metrics.extra) == (currency == "CNY")


def test_a_withheld_export_has_no_reasoning(recorded: Recorded) -> None:
    _, path = recorded()
    text = json.dumps(atif.export(trace.read(path), withhold_reasoning=True))
    assert "STATE" not in text
    assert "reasoning_content" not in text
    assert "read_file" in text


def test_a_redacted_record_never_holds_reasoning(recorded: Recorded) -> None:
    _, path = recorded(redact_reasoning=True)
    assert b"STATE" not in path.read_bytes()
    assert b"[withheld]" in path.read_bytes()


def test_a_record_without_reasoning_is_not_taken_up_again(recorded: Recorded) -> None:
    task, path = recorded(redact_reasoning=True)
    world = path.parent / "world"
    with pytest.raises(InputError, match="cannot be taken up again"):
        attempt(task, Oracle(task.policy), root=world, record=path)


def test_redaction_keeps_everything_else() -> None:
    event = {
        "message": {"reasoning": "secret", "content": "x", "calls": [{"reasoning_content": ""}]}
    }
    shown = {"message": {"reasoning": "[withheld]", "content": "x",
                         "calls": [{"reasoning_content": ""}]}}  # fmt: skip
    assert redacted(event) == shown


def acyclic(found: graph.Graph) -> bool:
    return not any(node in found.reached(node) for node in found.nodes)


def test_the_graph_is_acyclic_and_each_claim_reaches_a_result(recorded: Recorded) -> None:
    _, path = recorded()
    found = graph.of(trace.read(path))
    assert acyclic(found)
    claims = [node for node in found.nodes if node.startswith("c")]
    assert claims
    for claim in claims:
        assert {f"r{i}" for i in range(1, 11)} <= found.reached(claim)


def test_the_graph_names_the_result_that_shows_a_claims_words(recorded: Recorded) -> None:
    task, path = recorded(needle.make("graph", 10))
    found = graph.of(trace.read(path))
    shown = {b for a, b, why in found.edges if a == "c1" and why == "occurs in"}
    marks = task.answer.split()[1:]
    assert all(any(mark in found.nodes[node] for node in shown) for mark in marks)
    assert found.mermaid().startswith("flowchart RL\n")
    assert found.mermaid().count("-->") == len(found.edges)


def test_the_graph_leads_from_thoughts_and_citations_to_results(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    replies = iter(
        [
            Reply("", "Look.", (Call("functions.read_file:0", "read_file", '{"path": "a.txt"}'),)),
            Reply("", "r1 was it?", (Call("functions.open:1", "open", '{"id": "r1"}'),)),
            Reply("It is one [r2].", "r1 and r2 agree; r9 does not exist."),
        ]
    )
    path = tmp_path / "turns.jsonl"
    Driver(lambda request: next(replies), SmallTools(tmp_path), record_path=path).start("go")
    found = graph.of(trace.read(path))
    assert {("t2", "r1", "cites"), ("t2", "r1", "thinks of"), ("c1", "r2", "cites")} <= set(
        found.edges
    )
    assert ("t3", "r9", "thinks of") not in found.edges
    assert acyclic(found)
    assert found.as_dict()["nodes"][0]["unverified_reasoning"] == "Look."
    withheld = graph.of(trace.read(path), withhold_reasoning=True)
    assert "agree" not in json.dumps(withheld.as_dict())


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "turns.jsonl"
    record = Record(path)
    record.write("start", run="r", messages=[])
    record.close()
    with path.open("a") as file:
        file.write('{"kind": "turn", "mess')
    assert [event["kind"] for event in events(path)] == ["start"]
    trim(path)
    assert path.read_bytes().endswith(b"}\n")


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "turns.jsonl"
    path.write_text('{"kind": "start"}\n{"kind": \n{"kind": "end"}\n')
    with pytest.raises(ValueError, match="is damaged"):
        list(events(path))


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no record at .*turns\.jsonl"):
        trace.read(tmp_path / "turns.jsonl")
    (tmp_path / "other.jsonl").write_text("")
    with pytest.raises(InputError, match="it has no start"):
        trace.read(tmp_path / "other.jsonl")
