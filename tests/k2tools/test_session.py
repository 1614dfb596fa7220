"""Principals, runs, refs, budgets, pace and handles."""

from dataclasses import replace
from pathlib import Path

import pytest

from k2tools.handles import Handles
from k2tools.results import ToolError
from k2tools.runlog import Record
from k2tools.session import Sessions
from k2tools.settings import Settings


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "ws").mkdir()
    return Settings(tmp_path / "ws", tmp_path / "state")


def test_a_run_belongs_to_its_principal(settings: Settings) -> None:
    sessions = Sessions(settings)
    ours, theirs = sessions.get("a", "one"), sessions.get("b", "one")
    assert ours is sessions.get("a", "one")
    ours.log.append(Record(ours.arrive(), "find", {}, "ok", 0), "ours")
    assert ours.result("r1") == "ours"
    with pytest.raises(ToolError, match="there are none yet"):
        theirs.result("r1")
    assert ours.result("doc1") is None
    sessions.close()


def test_without_a_token_a_run_name_must_be_unguessable(settings: Settings) -> None:
    sessions = Sessions(settings)
    with pytest.raises(ToolError, match="22 characters"):
        sessions.get("local", "short", authenticated=False)
    for name in ("a/b", "..", "", "x" * 65, "a\nb"):
        if name:
            with pytest.raises(ToolError, match="run names"):
                sessions.get("a", name)
    sessions.close()


def test_a_budget_is_counted_shown_and_kept(settings: Settings) -> None:
    sessions = Sessions(replace(settings, budget_calls=2))
    session = sessions.get("a")
    for number in (1, 2):
        session.arrive()
        session.charge()
        assert session.step() == f" · step {number}/2"
    session.arrive()
    with pytest.raises(ToolError, match="budget of 2 calls is used up"):
        session.charge()
    sessions.close()


def test_calls_beyond_the_pace_are_asked_to_wait(settings: Settings) -> None:
    clock = Clock()
    sessions = Sessions(replace(settings, rate_calls_per_s=10, rate_burst_calls=3))
    session = sessions.get("a")
    session._clock, session._filled_s = clock, 0.0
    for _ in range(3):
        session.charge()
    with pytest.raises(ToolError, match="10 calls per second"):
        session.charge()
    clock.now_s = 0.1
    session.charge()
    sessions.close()


def test_idle_runs_beyond_the_limit_are_closed_and_resume(settings: Settings) -> None:
    sessions = Sessions(replace(settings, max_http_sessions=2))
    first = sessions.get("a", "one")
    first.log.append(Record(first.arrive(), "find", {}, "ok", 0), "kept")
    busy = sessions.get("a", "two")
    first.leave()
    busy.arrive()
    sessions.get("a", "three")
    sessions.get("a", "four")
    assert busy is sessions.get("a", "two")
    again = sessions.get("a", "one")
    assert again is not first
    assert again.result("r1") == "kept"
    sessions.close()


def test_a_run_that_did_not_begin_well_is_not_held(settings: Settings) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    sessions = Sessions(settings, on_new=full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            sessions.get("a", "one")
    again = Sessions(settings)
    again.get("a", "one")
    again.close()
    sessions.close()


class Kept:
    """What a handle stands for here."""

    closed = False

    async def close(self) -> None:
        self.closed = True


def handles(clock: Clock) -> Handles[Kept]:
    return Handles("py_", Kept.close, idle_s=60, life_s=600, max_per_principal=2, clock=clock)


@pytest.mark.anyio
async def test_a_handle_is_unguessable_and_its_principals_own() -> None:
    store, kept = handles(Clock()), Kept()
    handle = await store.mint("a", kept)
    assert len(handle) >= 3 + 22
    assert await store.get("a", handle, renew="start one") is kept
    with pytest.raises(ToolError, match=r"unknown or expired .* start one"):
        await store.get("b", handle, renew="start one")
    await store.close()
    assert kept.closed


@pytest.mark.anyio
async def test_handles_expire_when_idle_and_when_old() -> None:
    clock = Clock()
    store, kept = handles(clock), Kept()
    handle = await store.mint("a", kept)
    for _ in range(10):  # used every 59 s, until it is too old
        clock.now_s += 59
        assert await store.get("a", handle, renew="") is kept
    clock.now_s += 59
    with pytest.raises(ToolError, match="expired"):
        await store.get("a", handle, renew="")
    assert kept.closed


@pytest.mark.anyio
async def test_the_least_recently_used_makes_room() -> None:
    store = handles(Clock())
    kept = [Kept() for _ in range(4)]
    first = await store.mint("a", kept[0])
    await store.mint("a", kept[1])
    await store.get("a", first, renew="")
    await store.mint("b", kept[3])
    await store.mint("a", kept[2])
    assert [k.closed for k in kept] == [False, True, False, False]
    await store.close()
