"""Export to ATIF v1.4, the Agent Trajectory Interchange Format (harbor, RFC 0001).

Fields beyond the format go into `extra`, costs in another currency than dollars too. A withheld
export has no reasoning at all.
"""

import json
from importlib import metadata
from typing import Any

from conformance.agent.messages import reasoning_of
from conformance.agent.record import redacted
from conformance.agent.trace import Trace, Turn

SCHEMA = "ATIF-v1.4"


def export(trace: Trace, *, withhold_reasoning: bool = False) -> dict[str, Any]:
    """Write a trace in the format: Trace -> JSON object."""
    steps = [_prompt_step(i, m) for i, m in enumerate(trace.prompt, 1)]
    previous: dict[str, Any] = {}
    for turn in trace.turns:
        steps.append(_agent_step(len(steps) + 1, turn, previous, trace.currency))
        previous = turn.spent
    if withhold_reasoning:
        steps = [{k: v for k, v in redacted(s).items() if k != "reasoning_content"} for s in steps]
    spent = trace.end.get("spent", previous)
    return {
        "schema_version": SCHEMA,
        "session_id": trace.run,
        "agent": {"name": "k2conf-agent", "version": _version(), "model_name": trace.model or None},
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": spent.get("prompt_tokens", 0),
            "total_completion_tokens": spent.get("completion_tokens", 0),
            "total_cached_tokens": spent.get("cached_tokens", 0),
            "total_steps": len(steps),
            **_cost("total_cost", spent.get("cost", 0.0), trace.currency),
        },
        "extra": {"end": {k: v for k, v in trace.end.items() if k in ("status", "detail")}},
    }


def _version() -> str:
    try:
        return metadata.version("k2ref")
    except metadata.PackageNotFoundError:
        return "0"


def _prompt_step(number: int, message: dict[str, Any]) -> dict[str, Any]:
    return {"step_id": number, "source": message["role"], "message": message["content"]}


def _agent_step(number: int, turn: Turn, previous: dict[str, Any], currency: str) -> dict[str, Any]:
    step: dict[str, Any] = {
        "step_id": number,
        "source": "agent",
        "message": turn.message["content"],
        "metrics": _metrics(turn.spent, previous, currency),
    }
    if reasoning_of(turn.message) is not None:
        step["reasoning_content"] = reasoning_of(turn.message)
    if turn.calls:
        step["tool_calls"] = [
            {"tool_call_id": c.id, "function_name": c.name, "arguments": json.loads(c.arguments)}
            for c in turn.calls
        ]
        results = [
            {"source_call_id": call.id, "content": text}
            for call, text in zip(turn.calls, turn.texts, strict=False)
        ]
        step["observation"] = {"results": results}
    if turn.hidden:
        step["extra"] = {"hidden_messages": turn.hidden}
    return step


def _metrics(spent: dict[str, Any], previous: dict[str, Any], currency: str) -> dict[str, Any]:
    """Take the counters of one turn: after, before -> metrics."""
    names = ("prompt_tokens", "completion_tokens", "cached_tokens")
    metrics = {name: spent[name] - previous.get(name, 0) for name in names}
    return metrics | _cost("cost", spent["cost"] - previous.get("cost", 0.0), currency)


def _cost(name: str, cost: float, currency: str) -> dict[str, Any]:
    if not cost:
        return {}
    in_dollars = currency.upper() == "USD"
    return {f"{name}_usd": cost} if in_dollars else {"extra": {name: cost, "currency": currency}}
