"""Routing probes tell a reader of descriptions from one that always takes the same tool."""

from pathlib import Path

from conformance.agent.messages import Call, Reply, Request
from conformance.agent.misbehaving import Router
from conformance.agent.routing import PROBES, route
from conformance.agent.smalltools import SmallTools


def test_the_router_finds_every_tool_by_its_words() -> None:
    routed = route(Router(), SmallTools(Path(".")).tools())
    assert len(routed) == 9
    assert [each for each in routed if not each.right] == []


def test_a_model_that_always_takes_the_same_tool_is_right_once() -> None:
    def always(request: Request) -> Reply:
        return Reply("", "", (Call("functions.search:0", "search", "{}"),))

    routed = route(always, SmallTools(Path(".")).tools())
    assert sum(each.right for each in routed) == 1


def test_descriptions_that_do_not_differ_are_found_out() -> None:
    same = [t._replace(description="Does something.") for t in SmallTools(Path(".")).tools()]
    assert not all(each.right for each in route(Router(), same))


def test_a_reply_without_a_call_chooses_nothing() -> None:
    routed = route(lambda request: Reply("I would search."), SmallTools(Path(".")).tools())
    assert {each.chosen for each in routed} == {""}


def test_every_probe_is_for_another_tool() -> None:
    assert len({probe.tool for probe in PROBES}) == len(PROBES) == 18
