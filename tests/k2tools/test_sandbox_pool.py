"""The sandboxes kept warm: none is handed out twice, none outlives the pool."""

import os
from pathlib import Path

import anyio
import pytest

from k2tools.sandbox import owner, pool
from k2tools.sandbox.jail import Jail
from k2tools.sandbox.kernel import LocalKernel
from k2tools.sandbox.pool import Pool
from tests.k2tools.tiers import ANY_TIER, WITH_BWRAP, jail_of

pytestmark = [pytest.mark.anyio, ANY_TIER]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[LocalKernel]:
    """Every kernel that a pool started, in order."""
    kernels: list[LocalKernel] = []

    class Noted(LocalKernel):
        def __init__(self, *arguments: object, **named: object) -> None:
            super().__init__(*arguments, **named)
            kernels.append(self)

    monkeypatch.setattr(pool, "LocalKernel", Noted)
    return kernels


@pytest.fixture
def jail(tmp_path: Path) -> Jail:
    owner.hand_over(tmp_path)
    return jail_of("bubblewrap" if WITH_BWRAP else "landlock", tmp_path)


async def test_a_sandbox_that_becomes_ready_while_the_pool_closes_is_ended_too(
    jail: Jail, started: list[LocalKernel]
) -> None:
    async with anyio.create_task_group() as group:
        kept = Pool(jail, group, warm=1)
        await kept.open()
        taken = await kept.take()
        end = taken.close

        async def slow() -> None:
            while len(started) < 2 or started[-1].alive:  # until the one in waiting has ended
                await anyio.sleep(0.01)
            await end()

        taken.close = slow
        with anyio.fail_after(20):
            await kept.close()
        group.cancel_scope.cancel()
    assert [kernel.alive for kernel in started] == [False, False]


async def test_a_sandbox_that_died_in_waiting_is_closed_and_not_handed_out(
    jail: Jail, started: list[LocalKernel]
) -> None:
    async with anyio.create_task_group() as group:
        kept = Pool(jail, group, warm=1)
        await kept.open()
        with anyio.fail_after(20):
            while not kept._warm:
                await anyio.sleep(0.01)
        (dead,) = started
        dead.inmate.process.kill()
        dead.inmate.process.wait()
        kernel = await kept.take()
        assert kernel is not dead
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(dead.inmate.output)
        await kept.close()
        group.cancel_scope.cancel()
