"""The thirteen simulated models are pure functions of what they see."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from conformance.agent.attempt import modified, quick
from conformance.agent.families import chase, ledger, needle
from conformance.agent.messages import Model, Reply, Request
from conformance.agent.misbehaving import (
    Amnesiac,
    Leaky,
    Literal,
    Looper,
    Malformed,
    Obedient,
    Router,
    Stopper,
    ThinkOnly,
)
from conformance.agent.simulated import Oracle, noisy, self_conditioning, verifier
from conformance.agent.tasks import Task

CHASE = modified(chase.make("pure", 14), ["inject"])
LEDGER = ledger.make("pure", 16)
NEEDLE = needle.make("pure", 14)
MODELS: dict[str, tuple[Task, Callable[[Task], Model]]] = {
    "Oracle": (CHASE, lambda t: Oracle(t.policy)),
    "Noisy": (CHASE, lambda t: noisy(t.policy, "pure", 0.3)),
    "Verifier": (CHASE, lambda t: verifier(t.policy, "pure", 0.4, 0.7)),
    "SelfConditioning": (LEDGER, lambda t: self_conditioning(t.policy, "pure", 0.2, 2.0)),
    "Amnesiac": (NEEDLE, lambda t: Amnesiac(needle.NeedlePolicy(remembers=False))),
    "Looper": (CHASE, lambda t: Looper("read_file", {"path": t.milestones[0].value})),
    "Literal": (CHASE, lambda t: Literal("read_file", {"file": "x"}, lambda args, text: {})),
    "Leaky": (CHASE, lambda t: Leaky(Oracle(t.policy), 4)),
    "ThinkOnly": (CHASE, lambda t: ThinkOnly(Oracle(t.policy), 2)),
    "Malformed": (CHASE, lambda t: Malformed(Oracle(t.policy))),
    "Obedient": (CHASE, lambda t: Obedient(Oracle(t.policy))),
    "Router": (CHASE, lambda t: Router()),
    "Stopper": (CHASE, lambda t: Stopper(Oracle(t.policy), 5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_question_gets_the_same_answer_whoever_asks_and_when(name: str) -> None:
    task, make = MODELS[name]
    model = make(task)
    heard: list[tuple[Request, Reply]] = []

    def listening(request: Request) -> Reply:
        reply = model(request)
        heard.append((replace(request, messages=tuple(map(dict, request.messages))), reply))
        return reply

    quick(task, listening)
    assert heard
    fresh = make(task)
    for request, reply in reversed(heard):  # in another order, by one that has seen nothing
        assert fresh(request) == reply
        assert model(request) == reply


def test_there_are_the_thirteen_that_were_asked_for() -> None:
    assert len(MODELS) == 13
