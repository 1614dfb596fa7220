"""Laws of what an engine remembers: cache, earlier prompts, neighbours in a batch, its own words.

They see what no single prefill shows: positions that are not reset, entries that are not written,
rows that look at their neighbours, decoding that is not what prefill computes. What an engine must
offer for each is in `conformance.engine`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from conformance.checks.asked import Generate, generator_of
from conformance.compare import GAP_LIMIT, generation_gap
from conformance.engine import EngineError, NotOffered, attempt
from conformance.laws import Broken, same
from conformance.laws import prompts as p
from conformance.laws.changed import LAYERS, Drawn, ModelLaw, Models, ask
from conformance.profiles import TINY

LONG, BLOCK = 70, 64  # more tokens than a block that kernels and pages are made of
NEW, DRAWN = 12, 60
HOT = 32.0  # at this temperature all tokens of the tiny model are about as probable


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


def _decode_is_prefill(models: Models, x: Drawn) -> None:
    with models.loaded(x.weights()) as runner:
        stepwise = _in_chunks(runner, x.ids_T, range(x.cut, NEW))
        wanted = ask(runner, x.ids_T, np.arange(NEW))
    models.near(stepwise, wanted, f"{x.cut} tokens, then one at a time")


def _chunks_are_prefill(models: Models, x: Drawn) -> None:
    with models.loaded(x.weights()) as runner:
        wanted = ask(runner, x.ids_T, np.arange(LONG))
        for cut in (1, BLOCK - 1, BLOCK, BLOCK + 1, x.cut):
            found = _in_chunks(runner, x.ids_T, [cut])
            models.near(found, wanted, f"chunks of {cut} and {LONG - cut} tokens")


def _cache_is_latent(models: Models, x: Drawn) -> None:
    """The cache holds the normed latent and the rotated key of each token, and nothing else."""
    taps: dict[str, np.ndarray] = {}
    with models.loaded(x.weights()) as runner:
        cache = _cache(runner)
        if not callable(rows := getattr(cache, "rows", None)):
            raise NotOffered("the engine's cache has no rows(layer)")
        place_T = np.arange(NEW)
        for part_T in np.split(place_T, [x.cut]):
            ask(runner, x.ids_T[part_T], part_T, cache=cache)
        ask(
            runner, x.ids_T, place_T, trace=lambda name, array: taps.update({name: np.array(array)})
        )
        for layer in LAYERS:
            held = attempt(rows, layer)
            for part, found in zip(("latent", "k_rope"), held, strict=True):
                wanted = np.asarray(taps[f"L{layer}.attn.{part}"], np.float64)
                models.near(np.asarray(found, np.float64), wanted, f"layer {layer}: {part}")


def _earlier_prompts(models: Models, x: Drawn) -> None:
    """A prompt is answered alike by a fresh engine, after one that begins alike, and again."""
    ids_T, place_T = x.ids_T, np.arange(NEW)
    other_T = np.concatenate([ids_T[: x.cut], x.other_T[x.cut :]])
    with models.loaded(x.weights()) as runner:
        wanted = ask(runner, ids_T, place_T)
    with models.loaded(x.weights()) as runner:
        ask(runner, other_T, place_T)
        models.near(ask(runner, ids_T, place_T), wanted, "after a prompt that begins alike")
        ask(runner, ids_T[: x.cut], place_T[: x.cut])
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


def _rows_are_alone(models: Models, x: Drawn) -> None:
    """No row of a batch sees the others, their order, or what it is padded with."""
    prompts = np.split(x.ids_T, np.cumsum(x.counts)[:-1])
    with models.loaded(x.weights()) as runner:
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


def _greedy_is_own_best(models: Models, x: Drawn) -> None:
    with models.loaded(x.weights()) as runner:
        said = _said(runner, x.ids_T, max_new=NEW, temperature=0.0)
        _best(*said, "below the best of the engine's own prefill")


def _ends_of_sampling(models: Models, x: Drawn) -> None:
    """top-p or temperature towards 0 is greedy; top-p 1 and much heat leave every token."""
    ids_T, cold = x.ids_T, 1e-4
    with models.loaded(x.weights()) as runner:
        narrow = {"max_new": NEW, "temperature": 1.0, "top_p": 1e-6, "seed": x.sampling_seed}
        _best(*_said(runner, ids_T, **narrow), "below the best, top-p 1e-6")
        frozen = {"max_new": NEW, "temperature": cold, "top_p": 1.0, "seed": x.sampling_seed}
        _best(
            *_said(runner, ids_T, **frozen), f"below the best, temperature {cold}", slack=40 * cold
        )
        hot = {"max_new": DRAWN, "temperature": HOT, "top_p": 1.0, "seed": x.sampling_seed}
        new_T, logits_TW = _said(runner, ids_T, **hot)
        better_T = (logits_TW > logits_TW[np.arange(len(new_T)), new_T][:, None]).sum(axis=1)
        if len(new_T) == DRAWN and better_T.max() < 0.75 * TINY.vocab_size:
            raise Broken(
                f"of {DRAWN} tokens at temperature {HOT:g} none is of the unlikelier quarter: "
                f"something else than top-p 1 cuts at {better_T.max() + 1} tokens"
            )


def _probabilities_sum(models: Models, x: Drawn) -> None:
    with models.loaded(x.weights()) as runner:
        if not getattr(runner, "normalised", False):
            raise NotOffered("the engine gives logits, not log-probabilities")
        sum_T = np.exp(ask(runner, x.ids_T, np.arange(len(x.ids_T)))).sum(axis=1)
    same(sum_T, np.ones(len(sum_T)), "sum of probabilities", within=1e-4)


BATCHES = st.sampled_from(((9, 4, 1), (1, 1), (2, 33, 5, 2))).flatmap(
    lambda counts: p.model(ids_T=p.ids(sum(counts)), counts=st.just(counts))
)
DRAWS = p.model(ids_T=p.ids(NEW), sampling_seed=st.integers(1, 2**16))
LAWS = [
    ModelLaw(43, "decode-is-prefill", "model:cache", p.begun(NEW), _decode_is_prefill),
    ModelLaw(44, "chunks-are-prefill", "model:cache", p.begun(LONG), _chunks_are_prefill),
    ModelLaw(45, "cache-is-latent", "model:cache", p.begun(NEW), _cache_is_latent),
    ModelLaw(
        47,
        "earlier-prompts-leave-nothing",
        "model:cache",
        p.begun(NEW, other_T=p.ids(NEW, "other")),
        _earlier_prompts,
    ),
    ModelLaw(48, "rows-are-alone", "model:batch", BATCHES, _rows_are_alone),
    ModelLaw(58, "ends-of-sampling", "gen:support", DRAWS, _ends_of_sampling),
    ModelLaw(
        65, "greedy-is-own-best", "gen:greedy", p.model(ids_T=p.ids(NEW)), _greedy_is_own_best
    ),
    ModelLaw(65, "probabilities-sum-to-one", "model:logits", p.prompt(), _probabilities_sum),
]
