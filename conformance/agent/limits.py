"""Budgets of a run and what it has spent.

Moonshot's published settings for K2-Thinking (model card moonshotai/Kimi-K2-Thinking): HLE with
tools 120 steps of at most 48K reasoning tokens, agentic search 300 steps of 24K, a window of 256K
tokens. A step is one turn of tool calls; the final answer is not a step.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from conformance.agent.messages import Call, Usage
from k2ref.errors import InputError

WINDOW = 262_144
ANSWER_TOKENS = 8_000
MIN_MAX_TOKENS = 16_000  # Moonshot's advice: max_tokens covers reasoning and answer together


@dataclass(frozen=True)
class Limits:
    """What a run may use; 0 means no limit."""

    steps: int = 300
    reasoning_per_step: int = 24_000
    total_tokens: int = 0
    seconds: float = 0.0
    money: float = 0.0
    window: int = WINDOW

    @property
    def max_tokens(self) -> int:
        """Give the completion limit of one reply."""
        return max(MIN_MAX_TOKENS, self.reasoning_per_step + ANSWER_TOKENS)


PRESETS = {
    "hle": Limits(steps=120, reasoning_per_step=48_000),
    "search": Limits(steps=300, reasoning_per_step=24_000),
}


@dataclass(frozen=True)
class Prices:
    """Prices per million tokens on a date; a cost without a dated file is not stated."""

    date: str
    currency: str
    prompt: float
    cached: float
    completion: float

    def cost(self, usage: Usage) -> float:
        """Price one reply: cached prompt tokens have their own price."""
        fresh = usage.prompt - usage.cached
        parts = fresh * self.prompt + usage.cached * self.cached
        return (parts + usage.completion * self.completion) / 1e6


def read_prices(path: Path) -> Prices:
    """Read a price file (TOML): date, currency, prompt, cached, completion."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    missing = set(Prices.__dataclass_fields__) - set(table)
    if missing:
        raise InputError(f"{path}: a price file needs {sorted(missing)} as well")
    return Prices(**{name: table[name] for name in Prices.__dataclass_fields__})


@dataclass
class Spent:
    """Counters of one run."""

    steps: int = 0
    replies: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    largest_prompt: int = 0
    over_reasoning: int = 0
    leaks: int = 0
    think_only: int = 0
    malformed: int = 0
    model_seconds: float = 0.0
    tool_seconds: float = 0.0
    cost: float = 0.0

    def add(self, usage: Usage, limits: Limits, prices: Prices | None) -> None:
        """Count one reply."""
        self.replies += 1
        self.prompt_tokens += usage.prompt
        self.cached_tokens += usage.cached
        self.completion_tokens += usage.completion
        self.reasoning_tokens += usage.reasoning
        self.largest_prompt = max(self.largest_prompt, usage.prompt)
        self.over_reasoning += usage.reasoning > limits.reasoning_per_step > 0
        self.cost += prices.cost(usage) if prices else 0.0

    def exhausted(self, limits: Limits) -> str:
        """Name the budget that is used up, "" when none is."""
        used = {
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "seconds": self.model_seconds + self.tool_seconds,
            "money": self.cost,
        }
        for name, value in used.items():
            limit = getattr(limits, name)
            if limit and value >= limit:
                return f"{name}: {value:.6g} of {limit:.6g}"
        return ""


REMIND_AT = (3, 5, 8)
STOP_AT = 12


@dataclass
class Repeats:
    """Count identical turns in a row: a reminder at 3, 5 and 8, a stop at 12."""

    last: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0

    def see(self, calls: list[Call]) -> int:
        """Count one turn and return how often it has come in a row."""
        turn = [(call.name, call.arguments) for call in calls]
        self.count = self.count + 1 if turn == self.last else 1
        self.last = turn
        return self.count


def reminder(count: int) -> str:
    """Word the reminder that a repeated turn gets, "" when it gets none."""
    if count not in REMIND_AT:
        return ""
    return (
        f"\n[note: this is the same call for the {count}th time in a row; its result will not "
        f"change. Try something else, or answer. The run stops at {STOP_AT}.]"
    ).replace("3th", "3rd")
