"""Tier 3: a kernel behind a Jupyter Kernel Gateway or Enterprise Gateway that the operator named.

The cell runner travels to the kernel as text, so a cell reads the same in every tier. What confines
the code is the remote's affair; the workspace must be a volume that both sides see.
"""

import ast
import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2

from k2tools.sandbox.kernel import GRACE_S, Call, Outcome, Printed, clean
from k2tools.sandbox.process import SandboxError
from k2tools.sandbox.runtime import INSIDE

READY_S = 40.0
MAX_MESSAGE_BYTES = 8 << 20
BROKEN = (OSError, EOFError, httpx2.HTTPError, ValueError, KeyError, TypeError)
BOOT = """
import importlib.abc, importlib.util, os, sys
class K2Carried(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    sources = {sources!r}
    def find_spec(self, name, path=None, target=None):
        if name in self.sources:
            return importlib.util.spec_from_loader(name, self, is_package=name == "k2_inside")
    def exec_module(self, module):
        module.__file__ = "/k2_inside/" + module.__name__ + ".py"
        exec(compile(self.sources[module.__name__], module.__file__, "exec"), module.__dict__)
sys.meta_path.insert(0, K2Carried())
if {folder!r}:
    os.chdir({folder!r})
from k2_inside.remote import Remote
k2_remote = Remote()
"""


def sources() -> dict[str, str]:
    """Read what travels to the kernel: -> source by module name."""
    found = {"k2_inside": ""}
    for path in Path(INSIDE).glob("*.py"):
        if path.stem in ("bridge", "cell", "figures", "frames", "remote", "values"):
            found[f"k2_inside.{path.stem}"] = path.read_text("utf-8")
    figures = Path(INSIDE) / "importable" / "k2_figures.py"
    return found | {"k2_figures": figures.read_text("utf-8")}


class GatewayKernel:
    """A session in a remote kernel."""

    def __init__(self, http: httpx2.AsyncClient, max_bytes: int) -> None:
        self._http, self._kernel = http, ""
        self._link: Any = None
        self._session, self._max_bytes = secrets.token_hex(16), max_bytes
        self.alive = True

    @classmethod
    async def start(
        cls, url: str, token: str, *, folder: str, max_output_bytes: int
    ) -> "GatewayKernel":
        """Start a kernel and prepare it. Raises SandboxError."""
        try:
            from websockets.exceptions import WebSocketException
        except ImportError:
            raise SandboxError("a gateway needs the extra: pip install 'k2ref[gateway]'") from None
        headers = {"Authorization": f"token {token}"} if token else {}
        http = httpx2.AsyncClient(base_url=url, headers=headers, timeout=READY_S)
        started = cls(http, max_output_bytes)
        try:
            with anyio.fail_after(READY_S):
                await started._connect(url, headers)
                await started._prepare(folder)
        except (*BROKEN, WebSocketException) as error:
            await started.close()
            raise SandboxError(f"the gateway {url} did not start a kernel: {error}") from None
        except BaseException:
            await started.close()
            raise
        return started

    async def _connect(self, url: str, headers: Mapping[str, str]) -> None:
        from websockets.asyncio.client import connect

        answer = await self._http.post("/api/kernels", json={})
        answer.raise_for_status()
        self._kernel = str(answer.json()["id"])
        channels = f"{url.replace('http', 'ws', 1).rstrip('/')}/api/kernels/{self._kernel}/channels"
        self._link = await connect(channels, additional_headers=headers, max_size=MAX_MESSAGE_BYTES)

    async def _prepare(self, folder: str) -> None:
        done = await self._run(
            BOOT.format(sources=sources(), folder=folder), Printed(10_000), _none
        )
        if done["status"] != "ok":
            raise ValueError(f"{done.get('ename')}: {done.get('evalue')}")

    async def execute(self, code: str, *, timeout_s: float, call: Call) -> Outcome:
        """Run a cell, interrupt it at its time, drop the kernel when that does not help."""
        printed = Printed(self._max_bytes)
        cell = f"k2_remote.run({code!r})"
        try:
            with anyio.move_on_after(timeout_s):
                return _outcome(await self._run(cell, printed, call), printed)
            return await self._stop(printed, call)
        except BROKEN as error:
            return await self._end(f"the connection to its kernel broke: {error}", printed)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._stop(printed, call)
            raise

    async def _stop(self, printed: Printed, call: Call) -> Outcome:
        """Interrupt; the variables are kept if that ends the cell within the grace."""
        with anyio.move_on_after(GRACE_S):
            try:
                await self._http.post(f"/api/kernels/{self._kernel}/interrupt")
                done = await self._finish(printed, call)
                return _outcome(done, printed)._replace(interrupted=True)
            except BROKEN as error:
                return await self._end(f"the connection to its kernel broke: {error}", printed)
        return await self._end("it did not stop when interrupted", printed)

    async def _run(self, code: str, printed: Printed, call: Call) -> dict[str, Any]:
        content = {
            "code": code,
            "silent": False,
            "store_history": False,
            "allow_stdin": True,
            "user_expressions": {"outcome": "k2_remote.outcome"},
        }
        self._request = await self._send("shell", "execute_request", content)
        return await self._finish(printed, call)

    async def _finish(self, printed: Printed, call: Call) -> dict[str, Any]:
        """Follow a request to its end: the reply came and the kernel is idle again."""
        reply: dict[str, Any] | None = None
        idle = False
        while reply is None or not idle:
            message = await self._receive()
            if message["parent_header"].get("msg_id") != self._request:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "stream":
                printed.add(str(content["text"]).encode("utf-8", "replace"))
            elif kind == "input_request":
                await self._answer(str(content["prompt"]), call)
            elif kind == "execute_reply":
                reply = content
            elif kind == "status":
                idle = content["execution_state"] == "idle"
        return reply

    async def _answer(self, question: str, call: Call) -> None:
        asked = json.loads(question)
        reply: dict[str, Any] = {"error": "the call was interrupted"}
        try:
            reply = await call(str(asked["tool"]), dict(asked["args"]))
        finally:  # the cell waits for exactly one
            with anyio.CancelScope(shield=True), anyio.move_on_after(GRACE_S):
                value = {"value": json.dumps(reply), "status": "ok"}
                await self._send("stdin", "input_reply", value)

    async def _send(self, channel: str, kind: str, content: Mapping[str, Any]) -> str:
        number = secrets.token_hex(16)
        header = {"msg_id": number, "session": self._session, "username": "k2tools"}
        header |= {"msg_type": kind, "version": "5.3"}
        message = {"channel": channel, "header": header, "parent_header": {}, "metadata": {}}
        await self._link.send(json.dumps({**message, "content": content, "buffers": []}))
        return number

    async def _receive(self) -> dict[str, Any]:
        from websockets.exceptions import ConnectionClosed

        try:
            message = json.loads(await self._link.recv())
        except (ConnectionClosed, RecursionError) as error:
            raise EOFError(str(error)) from None
        if not isinstance(message, dict):
            raise ValueError("a message that is no object")
        return message

    async def _end(self, why: str, printed: Printed) -> Outcome:
        await self.close()
        return Outcome(clean(printed.text()), printed.dropped_bytes, ended=why)

    async def close(self) -> None:
        """End the kernel."""
        if not self.alive:
            return
        self.alive = False
        with anyio.CancelScope(shield=True):
            if self._kernel:  # the gateway culls what nobody asks for
                with anyio.move_on_after(GRACE_S), suppress(httpx2.HTTPError, OSError):
                    await self._http.delete(f"/api/kernels/{self._kernel}")
            if self._link is not None:
                with anyio.move_on_after(GRACE_S), suppress(OSError):
                    await self._link.close()
            await self._http.aclose()


async def _none(tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"error": "not yet"}


def _outcome(reply: Mapping[str, Any], printed: Printed) -> Outcome:
    """Read the outcome out of a reply; what the remote says is as untrusted as the code."""
    if reply["status"] != "ok":
        error = f"{reply.get('ename')}: {reply.get('evalue')}"
        return Outcome(clean(printed.text()), printed.dropped_bytes, error=clean(error))
    told = reply["user_expressions"]["outcome"]["data"]["text/plain"]
    said = json.loads(ast.literal_eval(str(told)))
    value, error = clean(str(said["value"])), clean(str(said["error"]))
    return Outcome(clean(printed.text()), printed.dropped_bytes, value, error)
