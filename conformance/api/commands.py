"""`k2conf run https://…/v1`, and the command `endpoint-oracle`."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from conformance.api import behaviour, checks, prompts, refusals  # noqa: F401 (they register)
from conformance.api.brain import ModelBrain
from conformance.api.exchange import Budget, Cassette, Exchange, Http, Transport
from conformance.api.samples import judge_samples, make_samples, read_samples, tally
from conformance.api.server import OracleEndpoint
from conformance.api.tape import write_tape
from conformance.api.target import CHECKS, Target, run_checks
from conformance.results import Result, Run
from conformance.suite import line
from k2ref import Checkpoint, Model
from k2ref.chat import DIALECTS
from k2ref.chat.dialect import dialect_of, find_dialect
from k2ref.errors import InputError
from k2ref.tokenizer import load_tokenizer

REQUESTS = 80  # of all checks, without samples
TOKENS_IN = 400  # of a request on average


def add_commands(commands: Any) -> None:
    """Add the commands of this module: subparsers."""
    serve = commands.add_parser("endpoint-oracle", help="serve a checkpoint as a correct endpoint")
    serve.add_argument("directory", type=Path, help="a checkpoint with its tokenizer")
    serve.add_argument("--tape", action="store_true", help="write the tape checkpoint there first")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--model", default="k2", help="the name it answers to")
    serve.add_argument("--dialect", choices=sorted(DIALECTS))
    serve.add_argument("--reasoning-field", choices=("reasoning_content", "reasoning"),
                       default="reasoning_content")  # fmt: skip
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
    group.add_argument("--extra", type=json.loads, default={}, metavar="JSON", help="body fields")


def judge_endpoint(options: argparse.Namespace) -> Run | None:
    """Put an endpoint to the checks and print the results: options -> Run, None for an estimate."""
    if not options.model:
        raise InputError("an endpoint needs --model NAME")
    if unknown := [id_ for id_ in options.only if id_ not in CHECKS]:
        raise InputError(
            f"{unknown[0]} is not tested at an endpoint; --only takes one of {', '.join(CHECKS)}"
        )
    samples = _samples(options)
    budget = Budget(options.max_requests, options.max_cost, options.price_in, options.price_out)
    print(estimate(budget, options.max_tokens, len(samples)), file=sys.stderr)
    if options.estimate:
        return None
    target = _target(options, budget)
    results: list[Result] = []
    for result in _results(target, options, samples):
        print(line(result), flush=True)
        results.append(result)
    print(f"{budget.requests} requests, cost {budget.cost:.4f}")
    engine = {"name": options.engine, "version": options.model, "precision": "unknown"}
    return Run(engine, (*results,))


def _results(
    target: Target, options: argparse.Namespace, samples: list[dict[str, Any]]
) -> Iterator[Result]:
    yield from run_checks(target, options.only)
    if samples:
        yield from judge_samples(tally(target, samples))


def estimate(budget: Budget, max_tokens: int, samples: int) -> str:
    """Say what a run may use: budget, tokens per answer, samples -> a sentence."""
    requests = REQUESTS + samples
    worst = budget.price(requests * TOKENS_IN, requests * max_tokens)
    caps = [f"{budget.max_requests} requests" if budget.max_requests is not None else ""]
    caps += [f"cost {budget.max_cost}" if budget.max_cost is not None else ""]
    capped = f"; capped at {' and '.join(filter(None, caps))}" if any(caps) else ""
    return f"about {requests} requests, at most {worst:.2f} with {max_tokens} tokens each{capped}"


def _samples(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not options.samples:
        return []
    if options.samples.isdecimal():
        return make_samples(int(options.samples))
    return read_samples(Path(options.samples))


def _target(options: argparse.Namespace, budget: Budget) -> Target:
    transport: Transport
    if options.replay:
        transport = Cassette(options.replay)
    else:
        transport = Http(options.engine, api_key=_secret(options.api_key_env))
    if options.record and options.record.exists():
        raise InputError(f"{options.record} exists already; give a new file")
    return Target(
        Exchange(transport, budget, options.record),
        options.model,
        find_dialect(options.dialect),
        load_tokenizer(options.tokenizer) if options.tokenizer else None,
        options.max_tokens,
        options.extra,
    )


def _secret(name: str | None) -> str:
    if name and name not in os.environ:
        raise InputError(f"the environment has no {name}")
    return os.environ[name] if name else ""


def run_oracle(options: argparse.Namespace) -> int:
    """Serve a checkpoint until interrupted: options -> exit code."""
    app = make_oracle(options).app()
    print(f"http://{options.host}:{options.port}/v1 serves {options.model}", file=sys.stderr)
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning")
    return 0


def make_oracle(options: argparse.Namespace) -> OracleEndpoint:
    """Make the endpoint that the options describe: options -> OracleEndpoint."""
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
        ModelBrain(Model(checkpoint, dtype=np.float32)),
        tokenizer,
        find_dialect(chosen) if chosen else dialect_of(options.directory),
        options.model,
        options.reasoning_field,
        _secret(options.api_key_env),
    )
