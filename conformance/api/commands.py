"""The command `endpoint-oracle`, and the options of `k2conf run https://…/v1`."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2ref.chat import DIALECTS
from k2ref.errors import InputError

if TYPE_CHECKING:
    from conformance.api.server import OracleEndpoint


def add_commands(commands: Any) -> None:
    """Add the commands of this module: subparsers."""
    serve = commands.add_parser("endpoint-oracle", help="serve a checkpoint as a correct endpoint")
    serve.add_argument("directory", type=Path, help="a checkpoint with its tokenizer")
    serve.add_argument("--tape", action="store_true", help="write the tape checkpoint there first")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--model", default="k2", help="the name it answers to")
    serve.add_argument("--dialect", choices=sorted(DIALECTS))
    fields = ("reasoning_content", "reasoning")
    serve.add_argument("--reasoning-field", choices=fields, default=fields[0])
    serve.add_argument("--api-key-env", metavar="NAME", help="the variable that holds a key")
    serve.set_defaults(run=run_oracle)


def add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of an endpoint run: parser."""
    group = parser.add_argument_group("endpoints (https://…/v1)")
    group.add_argument("--model", help="the model's name at the endpoint")
    group.add_argument("--dialect", choices=sorted(DIALECTS), default="k2-thinking")
    group.add_argument("--tokenizer", type=Path, metavar="DIR", help="if it is not Kimi's own")
    group.add_argument("--api-key-env", metavar="NAME", help="the variable that holds the key")
    group.add_argument("--max-tokens", type=int, default=4096, help="of an answer")
    group.add_argument("--samples", metavar="N|F.jsonl", help="rates over N made or given requests")
    group.add_argument("--max-requests", type=int)
    group.add_argument("--max-cost", type=float, help="in the currency of the prices")
    group.add_argument("--price-in", type=float, default=0.0, help="per million tokens")
    group.add_argument("--price-out", type=float, default=0.0, help="per million tokens")
    group.add_argument("--estimate", action="store_true", help="print what a run may cost, and end")
    group.add_argument("--record", type=Path, metavar="OUT.jsonl", help="keep every raw exchange")
    group.add_argument("--replay", type=Path, metavar="F.jsonl", help="judge a recorded run")
    group.add_argument("--extra", type=_fields, default={}, metavar="JSON", help="body fields")


def _fields(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value


def run_oracle(options: argparse.Namespace) -> int:
    """Serve a checkpoint until interrupted: options -> exit code."""
    import uvicorn

    app = make_oracle(options).app()
    print(f"http://{options.host}:{options.port}/v1 serves {options.model}", file=sys.stderr)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0


def make_oracle(options: argparse.Namespace) -> "OracleEndpoint":
    """Make the endpoint that the options describe: options -> OracleEndpoint."""
    from conformance.api.brain import ModelBrain
    from conformance.api.run import secret
    from conformance.api.server import OracleEndpoint
    from conformance.api.tape import write_tape
    from k2ref import Checkpoint, Model
    from k2ref.chat.dialect import dialect_of, find_dialect
    from k2ref.tokenizer import load_tokenizer

    if options.tape:
        write_tape(options.directory)
    checkpoint = Checkpoint(options.directory)
    tokenizer = load_tokenizer(options.directory)
    if len(tokenizer) > checkpoint.config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} ids, the model {checkpoint.config.vocab_size}"
        )
    chosen = options.dialect
    return OracleEndpoint(
        ModelBrain(Model(checkpoint)),
        tokenizer,
        find_dialect(chosen) if chosen else dialect_of(options.directory),
        options.model,
        options.reasoning_field,
        secret(options.api_key_env),
    )
