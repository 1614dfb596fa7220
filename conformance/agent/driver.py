"""The loop: reasoning, calls, observations, until an answer or the end of a budget.

Every method that the mutants of mutants.py break is one line of a rule:
the history keeps each reply as it came (`remember`), results go back in the order of their calls
(`answered`), hidden outputs name their refs (`view`), and a resume executes no call twice
(`executor`, in execution.py).
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from conformance.agent import record as record_file
from conformance.agent.context import View, estimate
from conformance.agent.execution import Execution, Executor
from conformance.agent.leaks import has_leak, recovered
from conformance.agent.limits import STOP_AT, Repeats, Spent, reminder
from conformance.agent.messages import (
    Call,
    Message,
    Model,
    Reply,
    Request,
    Usage,
    assistant_message,
    calls_of,
    tool_message,
    wire_function,
    wrapped,
)
from conformance.agent.provider import ProviderError
from conformance.agent.run import DEFAULTS, CallRecord, Options, Run, Status
from conformance.agent.toolbox import Result, Toolbox, ToolCall
from k2ref.errors import InputError

THINK_ONLY_RETRIES = 3


@dataclass
class Driver:
    """One run of one model on one toolbox."""

    model: Model
    toolbox: Toolbox
    options: Options = DEFAULTS
    record_path: Path | None = None
    sync: bool = True
    executes: ClassVar[type[Executor]] = Executor

    def __post_init__(self) -> None:
        self.run = Run()
        self.repeats = Repeats()
        self.record = record_file.Record(self.record_path, self.options.redact_reasoning, self.sync)
        self.sight = View(self.options.limits.window, self.options.keep_last)
        self.executor = self.executes(self.toolbox, self.options, secrets.token_hex(16))

    # the two ways in

    def start(self, prompt: str, system: str = "") -> Run:
        """Begin a run with a prompt and drive it to its end."""
        self.run.history = [{"role": "system", "content": system}] if system else []
        self.run.history.append({"role": "user", "content": prompt})
        if self.record_path is not None and self.record_path.exists():
            record_file.trim(self.record_path)  # a first line that a crash tore
        self.record.write(
            "start",
            run=self.options.run_id,
            nonce=self.executor.nonce,
            model=self.options.model,
            currency=self.options.prices.currency if self.options.prices else "",
            redacted=self.options.redact_reasoning,
            messages=self.run.history,
        )
        return self._drive()

    def resume(self) -> Run:
        """Take up a run from its record and drive it to its end."""
        if self.record_path is None or not self.record_path.exists():
            raise InputError(f"no record to resume at {self.record_path}")
        stopped = self.record_path.stat().st_mtime
        self.executor.stopped_s = max(0.0, time.time() - stopped)
        record_file.trim(self.record_path)
        for event in record_file.events(self.record_path):
            getattr(self, f"_replay_{event['kind']}")(event)
        if self.run.status != "running":
            return self.run
        self.executor.offer()
        last = self.run.history[-1]
        if calls_of(last):
            self._act(resumed=True)
        elif last["role"] == "assistant":
            self._conclude(last["content"])
        return self._drive()

    # the loop

    def _drive(self) -> Run:
        self.executor.offer()
        try:
            while self.run.status == "running":
                self._turn()
        except ProviderError as error:
            self._end("provider_error", detail=str(error))
        finally:
            self.record.close()
        self.run.hidden = self.sight.hidden
        return self.run

    def _turn(self) -> None:
        used_up = self.run.spent.exhausted(self.options.limits)
        if used_up:
            return self._end("budget", detail=used_up)
        messages = self.view()
        if self.sight.tokens > self.options.limits.window:
            return self._end("overflow", detail=f"{self.sight.tokens} tokens after hiding")
        reply = self._ask(messages)
        if reply.is_empty:
            kind = "cut off while reasoning" if reply.finish == "length" else "think-only reply"
            return self._end("provider_error", detail=f"{kind}, {THINK_ONLY_RETRIES} retries")
        if reply.calls and self.run.spent.steps >= self.options.limits.steps:
            return self._end("max_steps", detail=f"{self.options.limits.steps} steps")
        self.remember(reply)
        return self._act() if reply.calls else self._conclude(reply.content)

    def _conclude(self, answer: str) -> None:
        honest = answer.strip().upper().startswith("UNSOLVABLE")
        self._end("unsolvable" if honest else "done", answer=answer)

    def view(self) -> tuple[Message, ...]:
        """Give the messages to send."""
        return self.sight.of(self.run.history, reserve=self.options.limits.max_tokens)

    def _ask(self, messages: tuple[Message, ...]) -> Reply:
        """Ask the model; a think-only reply is asked again, and enters no history."""
        tools = [
            wire_function(t.name, t.description, t.schema) for t in self.executor.offered.values()
        ]
        request = Request(
            messages, tuple(tools), self.options.limits.max_tokens, self.options.temperature
        )
        for attempt in range(THINK_ONLY_RETRIES + 1):
            start = time.perf_counter()
            reply = self.model(replace(request, attempt=attempt))
            self.run.spent.model_seconds += time.perf_counter() - start
            reply = self._received(reply)
            if not reply.is_empty:
                break
            self.run.spent.think_only += 1
        return reply

    def _received(self, reply: Reply) -> Reply:
        if reply.usage:
            self.sight.correct(reply.usage.prompt)
        usage = reply.usage or self._estimated(reply)
        self.run.spent.add(usage, self.options.limits, self.options.prices)
        if has_leak(reply):
            self.run.spent.leaks += 1
            reply = recovered(reply, len(self.run.calls)) if self.options.recover_leaks else reply
        return reply

    def _estimated(self, reply: Reply) -> Usage:
        reasoning = len(reply.reasoning or "") // 4
        completion = estimate(assistant_message(reply))
        return Usage(self.sight.tokens, completion, 0, reasoning)

    def remember(self, reply: Reply) -> None:
        """Append the reply to the history and the record, as it came."""
        if self.options.native_ids:
            reply = replace(reply, calls=tuple(self._native(reply.calls)))
        message = assistant_message(replace(reply, calls=tuple(map(wrapped, reply.calls))))
        self.run.history.append(message)
        self.run.spent.steps += bool(reply.calls)
        self.record.write(
            "turn",
            message=message,
            hidden=sorted(self.sight.hidden),
            spent=vars(self.run.spent),
            raw={c.id: c.arguments for c in reply.calls if wrapped(c) != c},
            memory=self.executor.memory,
        )

    def _native(self, calls: Sequence[Call]) -> list[Call]:
        first = len(self.run.calls)
        return [
            replace(call, id=f"functions.{call.name}:{first + offset}")
            for offset, call in enumerate(calls)
        ]

    # acting

    def _act(self, *, resumed: bool = False) -> None:
        calls = calls_of(self.run.history[-1])
        count = self.repeats.see(calls)
        if count >= STOP_AT:
            return self._end("loop", detail=f"{count} identical turns in a row")
        start = time.perf_counter()
        executions = self._prepared(calls)
        results = self.executor.results(executions, resumed=resumed)
        self.run.spent.tool_seconds += time.perf_counter() - start
        note = reminder(count)
        texts = [result.text + note for result in results]
        self._keep(calls, executions, results)
        self.run.history += self.answered(calls, texts)
        self.record.write(
            "results", results=[r._asdict() for r in results], texts=texts, resumed=resumed
        )

    def _prepared(self, calls: Sequence[Call]) -> list[Execution]:
        first = len(self.run.calls)
        executions = [self.executor.prepare(first + i, call) for i, call in enumerate(calls)]
        self.run.spent.malformed += sum(isinstance(e, Result) for e in executions)
        return executions

    def answered(self, calls: Sequence[Call], texts: Sequence[str]) -> list[Message]:
        """Write the results of one turn, in the order of its calls."""
        return [tool_message(call.id, text) for call, text in zip(calls, texts, strict=True)]

    def _keep(self, calls: list[Call], executions: list[Execution], results: list[Result]) -> None:
        for call, execution, result in zip(calls, executions, results, strict=True):
            sent = execution if isinstance(execution, ToolCall) else None
            self.run.calls.append(
                CallRecord(
                    self.run.spent.steps,
                    call,
                    sent.trace_id if sent else "",
                    sent.args if sent else None,
                    result,
                )
            )
        self.run.spent.calls = len(self.run.calls)

    def _end(self, status: Status, *, answer: str = "", detail: str = "") -> None:
        self.run.status, self.run.answer, self.run.detail = status, answer, detail
        self.record.write(
            "end", status=status, answer=answer, detail=detail, spent=vars(self.run.spent)
        )

    # reading a record back

    def _replay_start(self, event: record_file.Event) -> None:
        if event["redacted"]:
            raise InputError("this record was kept without reasoning; it cannot be taken up again")
        self.run.history = list(event["messages"])
        self.options = replace(self.options, run_id=event["run"])
        self.executor.options = self.options
        self.executor.nonce = event.get("nonce", self.executor.nonce)

    def _replay_turn(self, event: record_file.Event) -> None:
        self.sight.of(self.run.history)
        self.sight.hide(sorted(set(event["hidden"]) - self.sight.hidden))
        self.run.history.append(event["message"])
        self.executor.sent_to = event.get("memory", "")
        self.run.spent = Spent(**event["spent"])

    def _replay_results(self, event: record_file.Event) -> None:
        if not self.executor.offered:
            self.executor.offer()
        calls = calls_of(self.run.history[-1])
        self.repeats.see(calls)
        executions = self._prepared(calls)
        self._keep(calls, executions, [Result(**r) for r in event["results"]])
        self.run.history += self.answered(calls, event["texts"])

    def _replay_end(self, event: record_file.Event) -> None:
        self.run.status, self.run.answer = event["status"], event["answer"]
        self.run.detail, self.run.spent = event["detail"], Spent(**event["spent"])
