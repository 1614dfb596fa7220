"""The server under check: started on a world of its own, again, and in every way there is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from conformance.agent import workbench
from conformance.agent.tasks import Task, write_world
from conformance.agent.toolbox import Result, Toolbox, ToolCall, ref_of


class Way(NamedTuple):
    """One way to reach a server: the wire's era, and the hash seed of its process."""

    server: str
    era: str = "auto"
    hash_seed: str = ""

    def __str__(self) -> str:
        return f"{self.server}, {self.era} era, hash seed {self.hash_seed}"


@dataclass
class Subject:
    """A server that can be started on a world of its own, and started again."""

    server: str
    folder: Path
    task: Task
    run: str = "server-check-0123456789abcdef0123"
    log: Path | None = field(default=None)

    @property
    def world(self) -> Path:
        return self.folder / "world"

    @property
    def ways(self) -> list[Way]:
        """List the ways: both eras, two hash seeds, and HTTP where it is known how to start it."""
        servers = [self.server, "k2tools:http"] if self.server == "k2tools" else [self.server]
        return [
            Way(server, era, str(seed))
            for server in servers
            for seed, era in enumerate(("auto", "legacy"), 1)
        ]

    @contextmanager
    def start(self, way: Way | None = None, *, reconnect: bool = False) -> Iterator[Toolbox]:
        server, era, seed = way or Way(self.server)
        with workbench.tools(
            server,
            self.world,
            self.folder / "state",
            self.run,
            era=era,
            hash_seed=seed,
            reconnect=reconnect,
        ) as (box, log):
            self.log = log
            yield box

    def fresh(self, name: str) -> "Subject":
        """Give the same server on a copy of the world, with a state of its own."""
        other = Subject(self.server, self.folder / name, self.task)
        write_world(self.task.files, other.world)
        return other


def one(box: Toolbox, name: str, **args: Any) -> Result:
    """Send one call."""
    return box.call_all([ToolCall(name, args)])[0]


def body(result: Result) -> str:
    """Take the ref line off a result: it varies and is outside every comparison."""
    ref = ref_of(result.text)
    return result.text[: result.text.rfind(f"[{ref}]")].rstrip("\n") if ref else result.text


def right_arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """Make arguments that a schema takes: the required ones, each with a plain value."""
    return {name: _right(schema["properties"][name]) for name in schema.get("required", [])}


def _right(schema: dict[str, Any]) -> Any:
    if schema.get("type") == "array" and schema.get("minItems"):
        return [_right(schema["items"])]
    if schema.get("type") == "object":
        return right_arguments(schema) if "properties" in schema else {}
    samples = {"integer": 1, "number": 1, "boolean": True, "array": []}
    return schema.get("enum", [samples.get(schema.get("type", ""), "x")])[0]
