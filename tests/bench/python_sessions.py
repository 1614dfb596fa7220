"""Python sessions against ipykernel, in one run: `python -m tests.bench.python_sessions`.

Prints medians in milliseconds and the ratio. ipykernel has no sandbox; ours is measured in each
tier that works here. Run it on a quiet machine.
"""

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from k2tools.sandbox.jail import Jail, Tier
from k2tools.sandbox.kernel import LocalKernel
from k2tools.sandbox.ladder import TIERS, tried
from k2tools.sandbox.pool import Pool
from tests.k2tools import canaries

STARTS, CALLS = 7, 300


async def refused(tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"error": "not here"}


async def taken_s(work: Callable[[], Awaitable[Any]]) -> float:
    began_s = time.perf_counter()
    await work()
    return time.perf_counter() - began_s


class Peer:
    """An ipykernel, spoken to as its own client does."""

    def __init__(self) -> None:
        from jupyter_client.manager import KernelManager

        self._manager = KernelManager()

    def start(self) -> None:
        self._manager.start_kernel(stdout=-3, stderr=-3)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    def call(self, code: str) -> None:
        self._client.execute_interactive(code, output_hook=lambda message: None)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


async def of_tier(tier: Tier) -> dict[str, float]:
    """Measure one tier: -> seconds by what was measured."""
    with canaries.workspace() as workspace:
        async with anyio.create_task_group() as group:
            jail = Jail(tier, workspace)
            warm = Pool(jail, group, warm=STARTS, preload=("numpy",))
            cold = Pool(jail, group, warm=0)
            await warm.open()
            with anyio.fail_after(60):
                while len(warm._warm) < STARTS:
                    await anyio.sleep(0.05)
            times: dict[str, list[float]] = {"ready, warm": [], "ready, cold": []}
            for _ in range(STARTS):
                times["ready, warm"].append(await taken_s(warm.take))
                times["ready, cold"].append(await taken_s(cold.take))
            kernel = await cold.take()
            times["call"] = [await taken_s(lambda: one(kernel)) for _ in range(CALLS)]
            times["call, first numpy"] = [await taken_s(lambda: one(kernel, "import numpy"))]
            await warm.close()
            await cold.close()
            group.cancel_scope.cancel()
    return {name: statistics.median(values) for name, values in times.items()}


async def one(kernel: LocalKernel, code: str = "1+1") -> None:
    outcome = await kernel.execute(code, timeout_s=30, call=refused)
    assert not outcome.error, outcome


def of_peer() -> dict[str, float]:
    starts, calls = [], []
    for number in range(STARTS):
        peer = Peer()
        began_s = time.perf_counter()
        peer.start()
        starts.append(time.perf_counter() - began_s)
        if number == STARTS - 1:
            for _ in range(CALLS):
                began_s = time.perf_counter()
                peer.call("1+1")
                calls.append(time.perf_counter() - began_s)
        peer.close()
    ready = statistics.median(starts)
    return {"ready, warm": ready, "ready, cold": ready, "call": statistics.median(calls)}


async def main() -> None:
    with canaries.workspace() as workspace:
        working = [t for t in TIERS if (await tried(Jail("none", workspace), t, "")).works]
    rows = {tier: await of_tier(tier) for tier in working}
    if importlib.util.find_spec("ipykernel") is not None:
        rows["ipykernel"] = of_peer()
    print(f"median ms of {STARTS} starts and {CALLS} calls; {os.cpu_count()} cores, {sys.version}")
    names = list(next(iter(rows.values())))
    print("".join(f"{name:>20}" for name in ("", *names)))
    for row, values in rows.items():
        cells = [f"{values[n] * 1e3:.3f}" if n in values else "-" for n in names]
        print("".join(f"{cell:>20}" for cell in (row, *cells)))
    if "ipykernel" in rows:
        for tier in working:
            pairs = [(n, rows["ipykernel"][n] / rows[tier][n]) for n in rows["ipykernel"]]
            print(
                f"ipykernel takes, against {tier}: " + ", ".join(f"{n} {r:.1f}x" for n, r in pairs)
            )


if __name__ == "__main__":
    anyio.run(main)
