"""What a rule of the strict endpoint is, and the list that the rules join."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from conformance.agent.messages import Reply

VERSION = "2026-11"
Body = dict[str, Any]
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Rule:
    """One rule: `check` yields a detail for every breach."""

    id: str
    client_check: str
    message: str
    source: str
    check: Callable[[Body, Sequence[Reply]], Iterator[str]]
    doubt: str = ""  # why not every endpoint refuses it

    @property
    def severity(self) -> Severity:
        return "warning" if self.doubt else "error"


RULES: list[Rule] = []
Check = Callable[[Body, Sequence[Reply]], Iterator[str]]


def rule(
    id: str, client_check: str, message: str, source: str, doubt: str = ""
) -> Callable[[Check], Check]:
    """Register a rule beside the function that checks it."""

    def register(check: Check) -> Check:
        RULES.append(Rule(id, client_check, message, source, check, doubt))
        return check

    return register


class Breach(NamedTuple):
    """One breach of a rule."""

    rule: Rule
    detail: str

    def __str__(self) -> str:
        return f"{self.rule.message}: {self.detail} [{self.rule.id}, {self.rule.source}]"
