"""Our driver as a client over HTTP, and broken clients for each clause."""

from pathlib import Path

import pytest

from conformance.agent import mutants_history, mutants_loop
from conformance.agent.client_checks import Client, check
from conformance.agent.driver import Driver
from conformance.agent.messages import Message, Reply, Request
from conformance.agent.provider import Endpoint, Retrying
from conformance.agent.run import Options
from conformance.agent.smalltools import SmallTools
from conformance.agent.toolbox import Only
from conformance.results import Verdict


def client_of(driver: type[Driver], *, retries: int = 3) -> Client:
    def run(url: str, prompt: str, world: Path) -> str:
        model = Retrying(Endpoint(url, "simulated"), retries, pause=lambda seconds: None)
        box = Only(SmallTools(world), ("read_file",))
        return driver(model, box, Options()).start(prompt).answer

    return run


def verdicts(client: Client, n: int = 12, *, strict: bool = False) -> dict[str, Verdict]:
    return {result.case: result.verdict for result in check(client, n, strict=strict)}


def test_the_driver_passes_every_check_over_http() -> None:
    results = list(check(client_of(Driver), 30))
    assert [(r.case, r.message) for r in results if r.verdict is not Verdict.PASS] == []
    assert [r.case for r in results] == ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]


class Doubles(Driver):
    """Shows every result twice, as clients do that send text and structured content."""

    def view(self) -> tuple[Message, ...]:
        return tuple(
            {**m, "content": m["content"] * 2} if m["role"] == "tool" else m for m in super().view()
        )


class Tired(Driver):
    """Gives up after six calls."""

    def _ask(self, messages: tuple[Message, ...]) -> Reply:
        return Reply("enough") if self.run.spent.calls >= 6 else super()._ask(messages)


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("C1", mutants_history.DropReasoning),
        ("C1", mutants_history.DropEmptyReasoning),
        ("C2", mutants_history.ReorderResults),
        ("C2", mutants_history.DropResult),
        ("C3", mutants_history.IdsPerTurn),
        ("C4", mutants_loop.OwnTemperature),
        ("C5", mutants_loop.ThinkOnlyEnds),
        ("C5", mutants_loop.ExecuteLeaks),
        ("C6", Tired),
        ("C7", Doubles),
    ],
)
def test_a_broken_client_fails_the_check_that_names_it(name: str, driver: type[Driver]) -> None:
    assert verdicts(client_of(driver))[name] is Verdict.FAIL


def test_a_client_that_does_not_retry_fails_c5() -> None:
    assert verdicts(client_of(Driver, retries=0))["C5"] is Verdict.FAIL


def test_a_client_that_says_nothing_fails_with_what_it_printed() -> None:
    results = {r.case: r for r in check(lambda url, prompt, world: "too old", 12)}
    assert results["C6"].verdict is Verdict.FAIL
    assert "no request came; the client printed 'too old'" in results["C7"].message


def test_foreign_ids_are_a_warning_unless_the_endpoint_is_strict() -> None:
    class Renames(Driver):
        def remember(self, reply: Reply) -> None:
            super().remember(reply)
            for call in self.run.history[-1].get("tool_calls", []):
                call["id"] = call["id"].replace(".", "_").replace(":", "_")

    assert verdicts(client_of(Renames))["C3"] is Verdict.LOOSE
    assert verdicts(client_of(Renames), strict=True)["C3"] is Verdict.FAIL


def test_the_request_carries_what_a_thinking_endpoint_wants() -> None:
    seen: list[Request] = []

    def model(request: Request) -> Reply:
        seen.append(request)
        return Reply("done")

    Driver(model, Only(SmallTools(Path(".")), ("read_file",)), Options()).start("hello")
    assert seen[0].max_tokens == 32_000
    assert seen[0].temperature == 1.0
