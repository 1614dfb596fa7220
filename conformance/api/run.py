"""A run over an endpoint: what it may cost, every check, the rates."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.api import behaviour, checks, prompts, refusals, schemas  # noqa: F401 (register)
from conformance.api.exchange import Budget, Cassette, Exchange, Http, Transport, tokens_of
from conformance.api.target import CHECKS, Target, run_checks
from conformance.results import Result, Run
from conformance.suite import line
from k2ref.chat.dialect import find_dialect
from k2ref.errors import InputError
from k2ref.tokenizer import load_tokenizer

REQUESTS = 120  # of all checks, without samples
TOKENS_IN = 600  # of a request on average


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
    print(estimate(budget, options.max_tokens, samples), file=sys.stderr)
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
        from conformance.api.samples import judge_samples, tally  # SciPy takes its time

        yield from judge_samples(tally(target, samples), target.dialect)


def estimate(budget: Budget, max_tokens: int, samples: list[dict[str, Any]]) -> str:
    """Say what a run may use: budget, tokens per answer, samples -> a sentence."""
    requests = REQUESTS + len(samples)
    tokens_in = REQUESTS * TOKENS_IN + sum(map(tokens_of, samples))
    worst = budget.price(tokens_in, requests * max_tokens)
    caps = [f"{budget.max_requests} requests" if budget.max_requests is not None else ""]
    caps += [f"cost {budget.max_cost}" if budget.max_cost is not None else ""]
    capped = f"; capped at {' and '.join(filter(None, caps))}" if any(caps) else ""
    return f"about {requests} requests, at most {worst:.2f} with {max_tokens} tokens each{capped}"


def _samples(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not options.samples:
        return []
    try:
        from conformance.api.samples import make_samples, read_samples
    except ImportError:
        raise InputError("samples need an extra: python -m pip install 'k2ref[kit]'") from None
    if options.samples.isdecimal():
        return make_samples(int(options.samples))
    return read_samples(Path(options.samples))


def _target(options: argparse.Namespace, budget: Budget) -> Target:
    transport: Transport
    if options.replay:
        transport = Cassette(options.replay)
    else:
        transport = Http(options.engine, api_key=secret(options.api_key_env))
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


def secret(name: str | None) -> str:
    if name and name not in os.environ:
        raise InputError(f"the environment has no {name}")
    return os.environ[name] if name else ""
