"""Choosing by text what a run is made of: a simulated model, an endpoint, a tool server."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from conformance.agent.messages import Model
from conformance.agent.misbehaving import Leaky, Malformed, Obedient, Silent, Stopper, ThinkOnly
from conformance.agent.provider import Endpoint, Retrying
from conformance.agent.simulated import Oracle, noisy, self_conditioning, verifier
from conformance.agent.smalltools import SmallTools
from conformance.agent.tasks import Task, key
from conformance.agent.toolbox import Toolbox
from k2ref.errors import InputError

Maker = Callable[[Task, list[float]], Model]
SIMULATED: dict[str, tuple[str, Maker]] = {
    "oracle": ("", lambda t, v: Oracle(t.policy)),
    "noisy": ("P", lambda t, v: noisy(t.policy, t.seed, v[0])),
    "verifier": ("P,D", lambda t, v: verifier(t.policy, t.seed, v[0], v[1])),
    "conditioning": ("P,C", lambda t, v: self_conditioning(t.policy, t.seed, v[0], v[1])),
    "stopper": ("TURNS", lambda t, v: Stopper(Oracle(t.policy), int(v[0]))),
    "leaky": ("EVERY", lambda t, v: Leaky(Oracle(t.policy), int(v[0]))),
    "silent": ("EVERY", lambda t, v: Silent(Oracle(t.policy), int(v[0]))),
    "thinkonly": ("TIMES", lambda t, v: ThinkOnly(Oracle(t.policy), int(v[0]))),
    "malformed": ("", lambda t, v: Malformed(Oracle(t.policy))),
    "obedient": ("", lambda t, v: Obedient(Oracle(t.policy))),
}


def simulated(text: str, task: Task) -> Model:
    """Read a simulated model, such as noisy:0.01 or verifier:0.01,0.9."""
    name, _, rest = text.partition(":")
    if name not in SIMULATED:
        raise InputError(f"no simulated model is called {name!r}; there are {usage()}")
    wanted, make = SIMULATED[name]
    try:
        values = [float(part) for part in rest.split(",") if part]
    except ValueError:
        raise InputError(f"{text!r}: the values of {name} must be numbers: {usage()}") from None
    if len(values) != len([part for part in wanted.split(",") if part]):
        raise InputError(f"{text!r} has {len(values)} values; wanted {name}:{wanted}")
    return make(task, values)


def usage() -> str:
    """List the simulated models with their values."""
    return ", ".join(
        f"{name}:{values}" if values else name for name, (values, _) in SIMULATED.items()
    )


def endpoint(
    base_url: str, model: str, key_variable: str, *, stream: bool = True, extra: str = ""
) -> Model:
    """Make the model behind an endpoint; the key comes from the environment, never a flag."""
    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"the base URL must start with http:// or https://, got {base_url!r}")
    try:
        more = json.loads(extra or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"--extra must be a JSON object: {error}") from None
    key = os.environ.get(key_variable, "")
    return Retrying(Endpoint(base_url, model, key, stream, extra=more))


def run_name(task: Task, index: int = 0) -> str:
    """Name a run so that nobody can guess it."""
    return f"run-{key(task.seed, task.name, index, size=32)}"


def is_url(server: str) -> bool:
    """Tell a server that runs already from one that is started for each world."""
    return server.startswith(("http://", "https://"))


@contextmanager
def tools(
    server: str,
    world: Path,
    state: Path,
    run: str,
    *,
    era: str = "auto",
    hash_seed: str = "",
    reconnect: bool = False,
) -> Iterator[tuple[Toolbox, Path | None]]:
    """Open the tool server: its name, world, state, run -> toolbox and the folder of its log.

    `k2tools` starts our own server over stdio, `k2tools:http` over HTTP, `small` uses the tools of
    smalltools.py, a URL or a command is any MCP server; {world}, {state} and {run} are filled into
    a command. A server started here gets the hash seed.
    """
    if server == "small":
        yield SmallTools(world), None
        return
    from conformance.agent.mcp_tools import McpTools, server_of  # the SDK takes half a second

    log = state / "runs" / run if server in OWN else None
    filled = OWN.get(server, server).replace("{world}", shlex.quote(str(world)))
    filled = filled.replace("{state}", shlex.quote(str(state))).replace("{run}", run)
    environment = {"PYTHONHASHSEED": hash_seed} if hash_seed else {}
    listening = _listening(filled, environment) if server == "k2tools:http" else nullcontext(filled)
    with listening as target:
        named = run if is_url(target) else ""  # one run per trajectory
        started = server_of(target, environment=environment)
        with McpTools(started, named, era, reconnect) as box:
            yield box, log


OWN_COMMAND = shlex.join(
    [sys.executable, "-m", "k2tools", "serve", "{world}", "--state", "{state}"]
)
OWN = {
    "k2tools": f"{OWN_COMMAND} --run {{run}}",
    "k2tools:http": f"{OWN_COMMAND} --http 127.0.0.1:0 --no-auth",
}


@contextmanager
def _listening(command: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Start a server that prints its URL: command -> URL."""
    process = subprocess.Popen(
        shlex.split(command), stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        words = (word for line in process.stderr or () for word in line.split())
        url = next((word for word in words if word.startswith("http://")), "")
        if not url:
            raise InputError(f"the tool server {command} did not start; it ended with "
                             f"{process.wait()}")  # fmt: skip
        yield url
    finally:
        process.terminate()
        process.communicate()
