"""The prompt of every step, exactly: what the model has said stands in the next prompt unchanged.

Inside a tool loop a K2 prompt only grows. Prompt k + 1 is prompt k, then what the model said as
the template renders it, then the results, then the opening of the next reply. Whatever a client
reorders, re-serialises or inserts breaks this, and with it the prefix cache of the engine.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from conformance.agent.attempt import attempt
from conformance.agent.driver import Driver
from conformance.agent.families import chase
from conformance.agent.messages import Reply, Request, assistant_message
from conformance.agent.simulated import Oracle
from conformance.agent.tasks import write_world
from k2ref.chat import render, render_reply

STEPS = 300


def c6_prompts(drive: Callable[..., Driver], steps: int = STEPS) -> str:
    """The prompt only grows, by exactly what was said and seen, at each of 300 steps."""
    task = chase.make("prompts", steps)
    oracle = Oracle(task.policy)
    requests: list[Request] = []
    replies: list[Reply] = []

    def model(request: Request) -> Reply:
        requests.append(request)
        replies.append(oracle(request))
        return replies[-1]

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "world")
        write_world(task.files, root)
        found = attempt(task, model, root=root, driver=drive)
    if not found.verdict.passed:
        return found.verdict.reason or found.verdict.process_reason
    return _growth(requests, replies)


def _growth(requests: list[Request], replies: list[Reply]) -> str:
    before = ""
    for step, request in enumerate(requests):
        prompt = render(request.messages, request.tools).text
        if not prompt.startswith(before):
            at = next(i for i, (a, b) in enumerate(zip(prompt, before, strict=False)) if a != b)
            return f"prompt {step + 1} differs at character {at}: {prompt[at : at + 40]!r}"
        before = prompt + render_reply(assistant_message(replies[step])).text
        ids = [call.id for call in replies[step].calls]
        if ids and ids != [f"functions.read_file:{step}"]:
            return f"step {step + 1} has the ids {ids}"
    return ""
