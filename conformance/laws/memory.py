"""Laws of what an engine remembers: cache, earlier prompts, neighbours in a batch, its own words.

They see what no single prefill shows: positions that are not reset, entries that are not written,
rows that look at their neighbours, decoding that is not what prefill computes. What an engine must
offer for each is in `conformance.engine`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from conformance.checks.asked import Generate, generator_of
from conformance.compare import GAP_LIMIT, generation_gap
from conformance.engine import EngineError, NotOffered, attempt
from conformance.laws import Broken, same
from conformance.laws.models import LAYERS, ModelLaw, Models, ask
from conformance.profiles import TINY

LONG, BLOCK = 70, 64  # more tokens than a block that kernels and pages are made of
NEW, DRAWN = 12, 60
HOT = 32.0  # at this temperature all tokens of the tiny model are about as probable


def _ids(models: Models, count: int, stream: int = 0) -> np.ndarray:
    random = np.random.default_rng([models.seed, stream])
    return random.integers(0, TINY.vocab_size, count)


def _cache(runner: Any) -> Any:
    """Ask for an empty cache: runner -> cache, which `forward` continues."""
    make = getattr(runner, "new_cache", None)
    cache = attempt(make) if callable(make) else None
    if cache is None:
        raise NotOffered("the engine offers no new_cache")
    return cache


def _in_chunks(runner: Any, ids_T: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    """Run a prompt piece by piece on one cache: runner, ids_T, where to cut -> logits_TW."""
    cache, place_T = _cache(runner), np.arange(len(ids_T))
    pieces = zip(np.split(ids_T, cuts), np.split(place_T, cuts), strict=True)
    return np.concatenate([ask(runner, ids, place, cache=cache) for ids, place in pieces])


def _decode_is_prefill(models: Models) -> None:
    ids_T, begun = _ids(models, NEW), NEW // 2
    with models.loaded() as runner:
        stepwise = _in_chunks(runner, ids_T, range(begun, NEW))
        wanted = ask(runner, ids_T, np.arange(NEW))
    models.near(stepwise, wanted, f"{begun} tokens, then one at a time")


def _chunks_are_prefill(models: Models) -> None:
    ids_T = _ids(models, LONG)
    with models.loaded() as runner:
        wanted = ask(runner, ids_T, np.arange(LONG))
        for cut in (1, BLOCK - 1, BLOCK, BLOCK + 1):
            found = _in_chunks(runner, ids_T, [cut])
            models.near(found, wanted, f"chunks of {cut} and {LONG - cut} tokens")


def _cache_is_latent(models: Models) -> None:
    """The cache holds the normed latent and the rotated key of each token, and nothing else."""
    ids_T, taps = _ids(models, NEW), {}
    with models.loaded() as runner:
        cache = _cache(runner)
        if not callable(rows := getattr(cache, "rows", None)):
            raise NotOffered("the engine's cache has no rows(layer)")
        place_T = np.arange(NEW)
        for half in np.split(place_T, 2):
            ask(runner, ids_T[half], half, cache=cache)
        ask(runner, ids_T, place_T, trace=lambda name, array: taps.update({name: np.array(array)}))
        for layer in LAYERS:
            held = attempt(rows, layer)
            for part, found in zip(("latent", "k_rope"), held, strict=True):
                wanted = np.asarray(taps[f"L{layer}.attn.{part}"], np.float64)
                models.near(np.asarray(found, np.float64), wanted, f"layer {layer}: {part}")


def _earlier_prompts(models: Models) -> None:
    """A prompt is answered alike by a fresh engine, after one that begins alike, and again."""
    ids_T, other_T = _ids(models, NEW), _ids(models, NEW, 1)
    other_T[: NEW // 2] = ids_T[: NEW // 2]
    place_T = np.arange(NEW)
    with models.loaded() as runner:
        wanted = ask(runner, ids_T, place_T)
    with models.loaded() as runner:
        ask(runner, other_T, place_T)
        models.near(ask(runner, ids_T, place_T), wanted, "after a prompt that begins alike")
        ask(runner, ids_T[:3], place_T[:3])
        models.near(ask(runner, ids_T, place_T), wanted, "asked again")


def _batch(runner: Any, prompts: list[np.ndarray], pad_id: int) -> list[np.ndarray]:
    function = getattr(runner, "forward_batch", None)
    if not callable(function):
        raise NotOffered("the engine offers no forward_batch")
    rows = [np.asarray(r, np.float64) for r in attempt(function, prompts, pad_id=pad_id)]
    wanted = [(len(p), TINY.vocab_size) for p in prompts]
    if [r.shape for r in rows] != wanted:
        raise EngineError(f"forward_batch: wanted shapes {wanted}, got {[r.shape for r in rows]}")
    return rows


def _rows_are_alone(models: Models) -> None:
    """No row of a batch sees the others, their order, or what it is padded with."""
    prompts = [_ids(models, count, count) for count in (9, 4, 1)]
    with models.loaded() as runner:
        together = _batch(runner, prompts, 0)
        turned = _batch(runner, prompts[::-1], 0)[::-1]
        padded = _batch(runner, prompts, TINY.vocab_size - 1)
        for row, ids_T in enumerate(prompts):
            alone, what = ask(runner, ids_T, np.arange(len(ids_T))), f"row {row} of a batch"
            models.near(together[row], alone, what)
            models.near(turned[row], alone, f"{what}, rows reversed")
            models.near(padded[row], alone, f"{what}, padded with another token")


def _generator(runner: Any) -> Generate:
    function = generator_of(runner)
    if function is None:
        raise NotOffered("the engine offers no generate")
    return function


def _said(runner: Any, ids_T: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Generate, and ask the engine's own prefill: -> new ids, logits they were chosen from."""
    new_T = np.asarray(list(attempt(_generator(runner), ids_T, **options)), np.int64)
    if len(new_T) == 0 or new_T.min() < 0 or new_T.max() >= TINY.vocab_size:
        raise EngineError(f"wanted ids of the vocabulary, got {new_T.tolist()}")
    before_T = np.concatenate([ids_T, new_T[:-1]])
    logits_TW = ask(runner, before_T, np.arange(len(before_T)))[len(ids_T) - 1 :]
    return new_T, logits_TW


def _best(new_T: np.ndarray, logits_TW: np.ndarray, what: str, *, slack: float = 0.0) -> None:
    limit = GAP_LIMIT["f32"] * float(np.sqrt(np.mean(np.square(logits_TW)))) + slack
    same(generation_gap(logits_TW, new_T), np.zeros(len(new_T)), what, within=limit)


def _greedy_is_own_best(models: Models) -> None:
    with models.loaded() as runner:
        said = _said(runner, _ids(models, NEW), max_new=NEW, temperature=0.0)
        _best(*said, "below the best of the engine's own prefill")


def _ends_of_sampling(models: Models) -> None:
    """top-p or temperature towards 0 is greedy; top-p 1 and much heat leave every token."""
    ids_T, cold = _ids(models, NEW), 1e-4
    with models.loaded() as runner:
        narrow = {"max_new": NEW, "temperature": 1.0, "top_p": 1e-6, "seed": 1}
        _best(*_said(runner, ids_T, **narrow), "below the best, top-p 1e-6")
        frozen = {"max_new": NEW, "temperature": cold, "top_p": 1.0, "seed": 1}
        _best(
            *_said(runner, ids_T, **frozen), f"below the best, temperature {cold}", slack=40 * cold
        )
        hot = {"max_new": DRAWN, "temperature": HOT, "top_p": 1.0, "seed": 1}
        new_T, logits_TW = _said(runner, ids_T, **hot)
        better_T = (logits_TW > logits_TW[np.arange(len(new_T)), new_T][:, None]).sum(axis=1)
        if len(new_T) == DRAWN and better_T.max() < 0.75 * TINY.vocab_size:
            raise Broken(
                f"of {DRAWN} tokens at temperature {HOT:g} none is of the unlikelier quarter: "
                f"something else than top-p 1 cuts at {better_T.max() + 1} tokens"
            )


def _probabilities_sum(models: Models) -> None:
    with models.loaded() as runner:
        if not getattr(runner, "normalised", False):
            raise NotOffered("the engine gives logits, not log-probabilities")
        ids_T = _ids(models, NEW)
        sum_T = np.exp(ask(runner, ids_T, np.arange(NEW))).sum(axis=1)
    same(sum_T, np.ones(NEW), "sum of probabilities", within=1e-4)


LAWS = [
    ModelLaw(43, "decode-is-prefill", "model:cache", _decode_is_prefill),
    ModelLaw(44, "chunks-are-prefill", "model:cache", _chunks_are_prefill),
    ModelLaw(45, "cache-is-latent", "model:cache", _cache_is_latent),
    ModelLaw(47, "earlier-prompts-leave-nothing", "model:cache", _earlier_prompts),
    ModelLaw(48, "rows-are-alone", "model:batch", _rows_are_alone),
    ModelLaw(58, "ends-of-sampling", "gen:support", _ends_of_sampling),
    ModelLaw(65, "greedy-is-own-best", "gen:greedy", _greedy_is_own_best),
    ModelLaw(65, "probabilities-sum-to-one", "model:logits", _probabilities_sum),
]
