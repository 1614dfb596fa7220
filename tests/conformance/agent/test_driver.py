"""The loop's own rules: budgets, ends, context, resume, approval."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conformance.agent.attempt import quick
from conformance.agent.context import View, placeholder
from conformance.agent.driver import Driver
from conformance.agent.execution import Executor
from conformance.agent.families import chase, ledger
from conformance.agent.leaks import recovered
from conformance.agent.limits import PRESETS, Limits, Prices, read_prices, reminder
from conformance.agent.messages import Call, Message, Reply, Request, Usage, assistant_message
from conformance.agent.misbehaving import Leaky, Looper, ThinkOnly
from conformance.agent.record import events
from conformance.agent.run import Options
from conformance.agent.server_log import LogWriter
from conformance.agent.simulated import Oracle
from conformance.agent.smalltools import SmallTools
from conformance.agent.tasks import write_world
from conformance.agent.toolbox import Approved, Only, Result, ToolCall, ref_of
from k2ref.errors import InputError


def test_the_presets_are_the_published_ones() -> None:
    assert (PRESETS["hle"].steps, PRESETS["hle"].reasoning_per_step) == (120, 48_000)
    assert (PRESETS["search"].steps, PRESETS["search"].reasoning_per_step) == (300, 24_000)
    assert all(limits.window == 262_144 for limits in PRESETS.values())
    assert Limits(reasoning_per_step=0).max_tokens == 16_000


def test_the_oracle_needs_exactly_300_steps_and_one_answer() -> None:
    task = chase.make("full", 300)
    found = quick(task, Oracle(task.policy))
    assert found.verdict.passed
    assert (found.run.spent.steps, found.run.spent.replies) == (300, 301)


def test_a_budget_of_money_ends_the_run_within_one_step() -> None:
    task = chase.make("money", 30)
    prices = Prices("2026-01-01", "USD", 1.0, 0.1, 2.0)
    options = Options(limits=replace(PRESETS["search"], money=0.01), prices=prices)
    run = quick(task, Oracle(task.policy), options).run
    assert run.status == "budget"
    assert run.detail.startswith("money: ")
    dearest = prices.cost(Usage(run.spent.largest_prompt, 500))
    assert 0.01 <= run.spent.cost < 0.01 + dearest


def test_cached_tokens_have_a_price_of_their_own() -> None:
    prices = Prices("2026-01-01", "USD", 1.0, 0.1, 2.0)
    assert prices.cost(Usage(1_000_000, 500_000, 400_000)) == pytest.approx(0.6 + 0.04 + 1.0)


def test_a_price_file_without_a_date_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('currency = "USD"\nprompt = 1.0\ncached = 0.1\ncompletion = 2.0\n')
    with pytest.raises(InputError, match=r"needs \['date'\]"):
        read_prices(path)


def test_reminders_come_at_3_5_and_8_only() -> None:
    assert [count for count in range(13) if reminder(count)] == [3, 5, 8]
    assert "3rd time" in reminder(3)
    assert "5th time" in reminder(5)


def test_a_run_that_only_thinks_ends_with_a_reason() -> None:
    task = chase.make("think", 10)
    run = quick(task, ThinkOnly(Oracle(task.policy), 9)).run
    assert (run.status, run.spent.think_only) == ("provider_error", 4)
    assert "think-only reply" in run.detail


def test_an_endpoint_that_refuses_ends_the_run_in_its_own_words() -> None:
    from conformance.agent.provider import ProviderError

    def model(request: Request) -> Reply:
        raise ProviderError("HTTP 401: no such key", 401)

    run = quick(chase.make("refused", 10), model).run
    assert (run.status, run.detail) == ("provider_error", "HTTP 401: no such key")


def test_a_loop_gets_a_reason_and_its_class_of_failure() -> None:
    task = chase.make("loop", 10)
    verdict = quick(task, Looper("read_file", {"path": task.milestones[0].value})).verdict
    assert (verdict.status, verdict.failure) == ("loop", "repeated itself")


def test_a_context_that_stays_too_large_is_an_overflow() -> None:
    task = chase.make("overflow", 30)
    limits = replace(PRESETS["search"], window=1_000)
    run = quick(task, Oracle(task.policy), Options(limits=limits)).run
    assert run.status == "overflow"
    assert "tokens after hiding" in run.detail


def test_a_denied_call_is_an_error_and_the_run_goes_on(tmp_path: Path) -> None:
    task = chase.make("deny", 10)
    write_world(task.files, tmp_path / "world")
    asked = []

    def deny(name: str, args: Mapping[str, Any]) -> str:
        asked.append(name)
        return "one read is not allowed" if len(asked) == 3 else ""

    box = Approved(Only(SmallTools(tmp_path / "world"), task.tools), deny)
    run = Driver(Oracle(task.policy), box).start(task.prompt)
    assert run.answer == task.answer
    assert [call.result.error for call in run.calls].count(True) == 1
    assert "denied: one read is not allowed" in run.calls[2].result.text


def history(outputs: list[str]) -> list[Message]:
    messages: list[Message] = [{"role": "user", "content": "q"}]
    for i, text in enumerate(outputs):
        call = Call(f"functions.notes:{i}" if i == 1 else f"functions.read_file:{i}",
                    "notes" if i == 1 else "read_file", "{}")  # fmt: skip
        messages.append(assistant_message(Reply("", f"R{i}" * 400, (call,))))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
    return messages


def test_hiding_spares_reasoning_notes_short_outputs_and_the_last_three() -> None:
    outputs = ["x" * 4_000 + f"\n[r{i}]" for i in range(8)]
    outputs[2] = "short\n[r2]"
    full = history(outputs)
    seen = View(window=2_000).of(full)
    texts = [m["content"] for m in seen if m["role"] == "tool"]
    hidden = [i for i, text in enumerate(texts) if text != outputs[i]]
    assert hidden == [0, 3, 4]
    assert texts[0] == '[output hidden to save context; read it again with open(id="r0")]'
    assert [m for m in seen if m["role"] == "assistant"] == [
        m for m in full if m["role"] == "assistant"
    ]
    assert all(m["content"] in outputs for m in full if m["role"] == "tool")


def test_what_is_hidden_once_stays_hidden() -> None:
    outputs = ["x" * 4_000 + f"\n[r{i}]" for i in range(12)]
    full = history(outputs)
    view = View(window=8_000)
    seen = [view.of(full[:length]) for length in range(1, len(full) + 1, 2)]
    for earlier, later in pairwise(seen):
        for a, b in zip(earlier, later, strict=False):
            assert a == b or b["content"].startswith("[output hidden")


def test_parallel_results_that_nobody_read_are_not_hidden() -> None:
    calls = tuple(Call(f"functions.read_file:{i}", "read_file", "{}") for i in range(6))
    messages = [{"role": "user", "content": "q"}, assistant_message(Reply("", "R", calls))]
    messages += [
        {"role": "tool", "tool_call_id": c.id, "content": "y" * 4_000 + "\n[r1]"} for c in calls
    ]
    seen = View(window=1_000).of(messages)
    assert all(m["content"].startswith("y") for m in seen if m["role"] == "tool")


def test_the_endpoints_own_count_corrects_the_estimate() -> None:
    view = View(window=10_000)
    view.of(history(["x" * 400]))
    estimated = view.tokens
    view.correct(estimated * 2)
    assert view.tokens == estimated * 2


def test_a_placeholder_without_a_ref_says_what_else_to_do() -> None:
    assert "send the call again" in placeholder("no ref here")
    assert ref_of("text\n[r17] step 17/300") == "r17"
    assert ref_of("text [r17] more") == ""


@pytest.mark.parametrize("where", ["reasoning", "content"])
def test_a_leaked_call_becomes_a_call_with_a_native_id(where: str) -> None:
    text = (
        "before<|tool_calls_section_begin|><|tool_call_begin|>functions.read_file:7"
        '<|tool_call_argument_begin|>{"path": "a"}<|tool_call_end|><|tool_calls_section_end|>'
    )
    reply = Reply(text, "") if where == "content" else Reply("", text)
    found = recovered(reply, 3)
    assert found.calls == (Call("functions.read_file:3", "read_file", '{"path": "a"}'),)
    assert (found.content, found.reasoning) == (
        ("before", "") if where == "content" else ("", "before")
    )


def test_leaks_are_counted_whether_or_not_they_are_recovered() -> None:
    task = chase.make("leaks", 12)
    for recover in (False, True):
        run = quick(
            task, Leaky(Oracle(task.policy), 4, "content"), Options(recover_leaks=recover)
        ).run
        assert run.spent.leaks >= 1


def test_without_a_memory_a_writing_call_is_not_repeated_blindly(tmp_path: Path) -> None:
    """The model is told that the result is lost, looks, and goes on: the entry is posted once."""
    task = ledger.make("lost", 12)
    write_world(task.files, tmp_path / "world")
    box = Only(SmallTools(tmp_path / "world"), task.tools)
    record = tmp_path / "turns.jsonl"

    class Dies(Driver):
        def _keep(self, *args: Any) -> None:
            if len(self.run.calls) == 5:  # the sixth call is an edit, and it has been executed
                raise KeyboardInterrupt
            super()._keep(*args)

    with pytest.raises(KeyboardInterrupt):
        Dies(Oracle(task.policy), box, record_path=record).start(task.prompt)
    run = Driver(Oracle(task.policy), box, record_path=record).resume()
    assert "lost in a restart" in run.calls[5].result.text
    assert run.status == "done"
    from conformance.agent.tasks import read_world

    assert task.outcome(run.answer, read_world(tmp_path / "world")).solved


def executor(tmp_path: Path, **options: Any) -> Executor:
    """Make an executor after a stop of 20 s, on a server that remembers no keys."""
    box = SmallTools(tmp_path)
    made = Executor(box, Options(**options), "nonce", stopped_s=20.0)
    made.offer()
    return made


def test_a_call_that_may_still_run_has_ended_before_the_model_looks(tmp_path: Path) -> None:
    waited: list[float] = []
    made = executor(tmp_path, call_limit_s=60.0)
    made.pause = waited.append
    read, edit = (ToolCall(name, {}) for name in ("read_file", "edit_file"))
    assert made.lost(read) is None
    assert waited == []
    for _ in range(2):  # of parallel calls all have ended after one wait
        found = made.lost(edit)
        assert found is not None
        assert found.fault == "lost"
    assert waited == [40.0]


def test_a_call_that_has_surely_ended_is_not_waited_for(tmp_path: Path) -> None:
    made = executor(tmp_path, call_limit_s=20.0, lost="repeat")
    made.pause = lambda seconds: pytest.fail(f"waited {seconds} s")
    assert made.lost(ToolCall("edit_file", {})) is None


def test_the_operator_who_wants_to_be_asked_is_asked_at_once(tmp_path: Path) -> None:
    made = executor(tmp_path, call_limit_s=60.0, lost="ask")
    made.pause = lambda seconds: pytest.fail(f"waited {seconds} s")
    with pytest.raises(InputError, match="whether edit_file"):
        made.lost(ToolCall("edit_file", {}))


def test_keys_are_the_run_s_own_and_the_same_after_a_stop(tmp_path: Path) -> None:
    task = ledger.make("keys", 12)
    write_world(task.files, tmp_path / "world")
    seen: list[list[str]] = []

    class Seen(SmallTools):
        def call_all(self, calls: Sequence[ToolCall]) -> list[Result]:
            seen[-1] += [call.key for call in calls]
            return super().call_all(calls)

    def begun(name: str) -> Driver:
        seen.append([])
        box = Seen(tmp_path / "world", LogWriter(tmp_path / name), keyed=True)
        return Driver(
            Oracle(task.policy), Only(box, task.tools), record_path=tmp_path / f"{name}.jsonl"
        )

    begun("one").start(task.prompt)
    begun("two").start(task.prompt)
    record = tmp_path / "one.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[:2]))  # the start and the first turn
    begun("one").resume()
    one, two, again = seen
    assert len(set(one)) == len(one) == 12
    assert not set(one) & set(two)
    assert again == one


def test_a_run_killed_after_its_answer_ends_with_that_answer(tmp_path: Path) -> None:
    task = chase.make("answered", 10)
    record = tmp_path / "turns.jsonl"
    quick(task, Oracle(task.policy), record=record)
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[:-1]))  # all but the end

    def never(request: Request) -> Reply:
        raise AssertionError("the model was asked again")

    box = Only(SmallTools(tmp_path), task.tools)
    run = Driver(never, box, record_path=record).resume()
    assert (run.status, run.answer) == ("done", task.answer)


def test_a_run_killed_at_its_first_line_begins_anew(tmp_path: Path) -> None:
    task = chase.make("first", 10)
    record = tmp_path / "turns.jsonl"
    record.write_text('{"kind": "sta')
    assert quick(task, Oracle(task.policy), record=record).verdict.passed
    assert [event["kind"] for event in events(record)][:2] == ["start", "turn"]


def test_a_finished_run_is_not_driven_again(tmp_path: Path) -> None:
    task = chase.make("finished", 10)
    write_world(task.files, tmp_path / "world")
    box = Only(SmallTools(tmp_path / "world"), task.tools)
    record = tmp_path / "turns.jsonl"
    one = Driver(Oracle(task.policy), box, record_path=record).start(task.prompt)

    def never(request: Request) -> Reply:
        raise AssertionError("the model was asked again")

    two = Driver(never, box, record_path=record).resume()
    assert (two.status, two.answer, len(two.calls)) == (one.status, one.answer, len(one.calls))
    assert two.history == one.history
    with pytest.raises(InputError, match="no record to resume"):
        Driver(never, box, record_path=tmp_path / "none").resume()


def test_arguments_that_are_no_object_are_answered_with_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    replies = iter(
        [
            Reply("", "R", (Call("functions.read_file:0", "read_file", "[1]"),)),
            Reply("", "R", (Call("functions.read_fil:1", "read_fil", "{}"),)),
            Reply("done", "R"),
        ]
    )
    run = Driver(lambda request: next(replies), SmallTools(tmp_path)).start("go")
    one, two = (call.result.text for call in run.calls)
    assert one == (
        "arguments must be a JSON object, got list. Send one JSON object with the keys ['path']."
    )
    assert "no tool is called 'read_fil'" in two
    assert "read_file" in two
    assert run.history[1]["tool_calls"][0]["function"]["arguments"] == '{"invalid_json": "[1]"}'
