"""A server with OpenAI-compatible completions as an engine: token ids in, log-probabilities out.

    http://HOST:PORT/v1,checkpoint=DIR[,model=NAME][,key_env=VARIABLE][,max_requests=N]

`checkpoint` says what the server serves; the reference runs the same directory. Three answers are
understood: `prompt_logprobs` (vLLM: all positions at once), `logprobs.content` with ids
(llama.cpp), and `logprobs.top_logprobs` with `token_id:` names. A server that gives fewer than all
log-probabilities offers no logits, but still generates. What comes back is normalised: logits up to
a constant per token.

Nothing is retried, no redirect is followed, and `max_requests` bounds the cost.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from conformance.adapters.address import split_address
from conformance.compare import find_precision
from conformance.engine import EngineError, Info, NotOffered
from k2ref.config import load_config
from k2ref.errors import InputError

TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 256 << 20
OPTIONS = {"checkpoint": "", "model": "", "key_env": "", "max_requests": "1000"}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any) -> None:
        """Refuse, so that a key goes nowhere else."""


class Client:
    """Posts JSON to one server."""

    def __init__(self, base: str, *, key: str = "", max_requests: int = 1000) -> None:
        self.base = base.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._left = max_requests
        self._opener = urllib.request.build_opener(_NoRedirect)

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask once: path, body -> answer.

        Raises:
            EngineError: no connection, an HTTP error, no JSON object, or too many requests.
        """
        if self._left <= 0:
            raise EngineError("max_requests is used up; raise it in the address")
        self._left -= 1
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, self._headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                answer = json.loads(response.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise EngineError(f"{path}: HTTP {error.code}: {said}") from None
        except (OSError, ValueError) as error:
            raise EngineError(f"{path}: {error}") from None
        if not isinstance(answer, dict):
            raise EngineError(f"{path}: wanted a JSON object, got {type(answer).__name__}")
        return answer


class OpenAiEngine:
    """A served model. It runs the one checkpoint it serves."""

    def __init__(self, client: Client, *, checkpoint: Path | None, model: str, info: Info) -> None:
        self.client, self.checkpoint, self.model, self.info = client, checkpoint, model, info

    def operation(self, name: str) -> Callable[..., Any] | None:
        """Offer no single operation: name -> None."""
        return None

    def load(self, directory: Path) -> "Served | None":
        """Hand out the model where it serves this directory: directory -> model or None."""
        if self.checkpoint is None or directory.resolve() != self.checkpoint.resolve():
            return None
        return Served(self.client, self.model, load_config(directory).vocab_size)

    def close(self) -> None:
        """Hold nothing: the server is not ours."""


def open_http(address: str, *, precision: str | None = None) -> OpenAiEngine:
    """Open a server: address behind `http:` -> engine."""
    return _open("http:", address, precision)


def open_https(address: str, *, precision: str | None = None) -> OpenAiEngine:
    """Open a server: address behind `https:` -> engine."""
    return _open("https:", address, precision)


def _open(scheme: str, address: str, precision: str | None) -> OpenAiEngine:
    path, options = split_address(address, OPTIONS)
    if options["key_env"] and options["key_env"] not in os.environ:
        raise InputError(f"the environment has no variable {options['key_env']}")
    client = Client(
        scheme + path,
        key=os.environ.get(options["key_env"], ""),
        max_requests=int(options["max_requests"]),
    )
    try:
        served = client.call("/models")
        models = [str(model["id"]) for model in served["data"]]
    except (EngineError, KeyError, TypeError) as error:
        raise InputError(f"{client.base}/models does not answer as OpenAI's: {error}") from None
    model = options["model"] or (models[0] if models else "default")
    info = Info(
        model, "served", find_precision(precision or "bf16").name, notes={"url": client.base}
    )
    checkpoint = Path(options["checkpoint"]) if options["checkpoint"] else None
    return OpenAiEngine(client, checkpoint=checkpoint, model=model, info=info)


class Served:
    """The model behind the URL. `normalised`: what `forward` gives are log-probabilities."""

    normalised = True

    def __init__(self, client: Client, model: str, vocab_size: int) -> None:
        self.client, self.model, self.vocab_size = client, model, vocab_size

    def forward(self, ids_T: np.ndarray, position_T: np.ndarray | None = None) -> np.ndarray:
        """Collect log-probabilities of every position: ids_T -> log_probability_TW float64."""
        if position_T is not None and (position_T != np.arange(len(ids_T))).any():
            raise NotOffered("a server counts positions itself, from 0")
        ids, W = [int(id_) for id_ in ids_T], self.vocab_size
        choice = self._complete(ids, logprobs=W, prompt_logprobs=W)
        if choice.get("prompt_logprobs"):
            rows = [_pairs(row) for row in choice["prompt_logprobs"][1:]] + [_first(choice)]
        else:
            before = [self._complete(ids[:n], logprobs=W) for n in range(1, len(ids))]
            rows = [_first(c) for c in [*before, choice]]
        return np.stack([_row(pairs, W) for pairs in rows])

    def generate(self, ids_T: np.ndarray, *, max_new: int, **sampling: float) -> list[int]:
        """Continue a prompt, with temperature, top_p and seed as the server reads them: -> ids."""
        ids = [int(i) for i in ids_T]
        choice = self._complete(ids, logprobs=1, max_tokens=max_new, sampling=sampling)
        report = choice.get("logprobs") or {}
        if "content" in report:
            return [int(item["id"]) for item in report["content"]]
        return [_id(name) for name in report.get("tokens", [])]

    def _complete(
        self,
        ids: list[int],
        *,
        logprobs: int,
        max_tokens: int = 1,
        prompt_logprobs: int = 0,
        sampling: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "prompt": ids, "max_tokens": max_tokens}
        body |= {"temperature": 0, "logprobs": logprobs, "return_tokens_as_token_ids": True}
        body |= sampling or {}
        if prompt_logprobs:
            body["prompt_logprobs"] = prompt_logprobs
        answer = self.client.call("/completions", body)
        try:
            return dict(answer["choices"][0])
        except (KeyError, IndexError, TypeError, ValueError):
            raise EngineError(f"/completions: no choices in {str(answer)[:200]}") from None


def _first(choice: dict[str, Any]) -> list[tuple[int, float]]:
    """Read the distribution of the first generated token: choice -> ids and log-probabilities."""
    report = choice.get("logprobs") or {}
    try:
        if "content" in report:
            return [
                (int(e["id"]), float(e["logprob"])) for e in report["content"][0]["top_logprobs"]
            ]
        return [(_id(name), float(p)) for name, p in report["top_logprobs"][0].items()]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineError(f"/completions: no log-probabilities with ids: {error!r}") from None


def _pairs(row: Any) -> list[tuple[int, float]]:
    try:
        return [(int(id_), float(entry["logprob"])) for id_, entry in row.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EngineError(f"prompt_logprobs: wanted ids with logprob: {error!r}") from None


def _id(name: Any) -> int:
    head, _, number = str(name).partition(":")
    if head != "token_id" or not number.isdigit():
        raise EngineError(f"wanted token ids (token_id:7), got {name!r}")
    return int(number)


def _row(pairs: list[tuple[int, float]], vocab_size: int) -> np.ndarray:
    found = {id_: p for id_, p in pairs if 0 <= id_ < vocab_size}
    if len(found) < vocab_size:
        raise NotOffered(f"the server gives {len(found)} of {vocab_size} log-probabilities")
    return np.array([found[id_] for id_ in range(vocab_size)])
