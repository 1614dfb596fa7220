"""Escape attempts, run inside the sandbox against canaries that the host has put out.

Each attempt returns what it reached, or nothing; an OSError is a refusal. A tier is offered only
when the quick ones fail in it, and the tests run them all.
"""

import errno
import json
import os
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from . import escapes, floods

Facts = dict[str, Any]
Attempt = Callable[[Facts], Any]
ANSWER_BYTES = 4096


def main(names: list[str], facts: Facts) -> None:
    """Try each attempt in a child of its own and print one JSON line for each."""
    for name in names:
        reading, writing = os.pipe()
        if not os.fork():
            os.close(reading)
            os.write(writing, json.dumps(tried(ATTEMPTS[name], facts)).encode()[:ANSWER_BYTES])
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            text = answer.read().decode() or '["blocked", "the attempt was killed"]'
        print(json.dumps({"name": name, "answer": json.loads(text)}), flush=True)
    os.waitpid(-1, 0)


def tried(attempt: Attempt, facts: Facts) -> tuple[str, str]:
    """Run one attempt: -> open or blocked, and what it reached or what stopped it."""
    try:
        reached = attempt(facts)
    except OSError as error:
        return "blocked", errno.errorcode.get(error.errno or 0, str(error))
    except MemoryError:
        return "blocked", "MemoryError"
    return ("open", str(reached)[:200]) if reached else ("blocked", "nothing reached")


def offered(module: ModuleType) -> dict[str, Attempt]:
    """List a module's attempts: the functions of the facts alone."""
    return {
        name: function
        for name, function in vars(module).items()
        if isinstance(function, FunctionType)
        and function.__code__.co_varnames[: function.__code__.co_argcount] == ("facts",)
    }


ATTEMPTS = {**offered(escapes), **offered(floods)}
# Fast ones that need no canary but a file and a process: what a start-up asks of a tier.
QUICK = (
    "read_secret",
    "write_outside",
    "change_mode_outside",
    "special_sockets",
    "datagram_pair",
    "route_outside",
    "see_by_signal",
    "limit_victim",
    "server_secrets",
    "inherited_descriptors",
    "core_pattern",
    "devices",
    "mount",
    "new_namespace",
    "change_root",
    "privileges",
    "kernel_interfaces",
)
