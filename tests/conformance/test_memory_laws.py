"""Laws of caches, batches and generation: each breaks for an engine that forgets or overhears."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.checks.laws import Effort, check_model_laws
from conformance.engine import Namespace, open_engine
from conformance.laws import memory, models
from conformance.laws.changed import ModelLaw
from k2ref import oracle
from k2ref.checkpoint import Checkpoint
from k2ref.generate import Sampling, generate
from k2ref.model import Model


class Right:
    """The reference with everything that the laws ask for; wrong engines change one thing."""

    normalised = False

    def __init__(self, directory: Path) -> None:
        self.model = Model(Checkpoint(directory))

    def new_cache(self) -> Any:
        return self.model.new_cache()

    def forward(self, ids_T: Any, position_T: Any = None, **options: Any) -> np.ndarray:
        logits_TW = self.model.forward(ids_T, position_T, **options)
        return np.log(oracle.softmax(logits_TW)) if self.normalised else logits_TW

    def forward_batch(self, prompts: list[np.ndarray], *, pad_id: int) -> list[np.ndarray]:
        return [self.forward(ids_T) for ids_T in prompts]

    def generate(self, ids_T: np.ndarray, *, max_new: int, seed: int = 0, **kw: float) -> list[int]:
        sampling = Sampling(seed=seed, **kw)
        return list(generate(self.model, ids_T, max_new=max_new, sampling=sampling))


class Normalised(Right):
    normalised = True


class NotReset(Right):
    """Counts positions from 0 in every call."""

    def forward(self, ids_T: Any, position_T: Any = None, *, cache: Any = None, **kw: Any) -> Any:
        logits_TW = super().forward(ids_T, position_T, cache=cache, **kw)
        if cache is not None:
            cache._key_rope_LSR = [np.roll(k, 1, axis=0) for k in cache._key_rope_LSR]
        return logits_TW


class ShortBlock(Right):
    """Loses the last entry of a chunk that fills a block."""

    def forward(self, ids_T: Any, position_T: Any = None, *, cache: Any = None, **kw: Any) -> Any:
        logits_TW = super().forward(ids_T, position_T, cache=cache, **kw)
        if cache is not None and len(ids_T) == memory.BLOCK:
            for latent_SC in cache._latent_LSC:
                latent_SC[memory.BLOCK - 1] = 0
        return logits_TW


class Rows:
    """A cache that holds latents before their norm."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def rows(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        latent_SC, key_rope_SR = self.cache.rows(layer)
        return latent_SC * 3, key_rope_SR


class Unnormed(Right):
    def new_cache(self) -> Any:
        return Rows(self.model.new_cache())

    def forward(self, ids_T: Any, position_T: Any = None, *, cache: Any = None, **kw: Any) -> Any:
        inner = None if cache is None else cache.cache
        return super().forward(ids_T, position_T, cache=inner, **kw)


class WrongPrefix(Right):
    """Takes a prompt that begins like the last one for the last one."""

    last: tuple[Any, Any] = (None, None)

    def forward(self, ids_T: Any, position_T: Any = None, **kw: Any) -> Any:
        ids, logits = self.last
        if ids is not None and len(ids) == len(ids_T) and (ids[:4] == ids_T[:4]).all():
            return logits
        logits = super().forward(ids_T, position_T, **kw)
        self.last = ids_T.copy(), logits
        return logits


class SeesPadding(Right):
    def forward_batch(self, prompts: list[np.ndarray], *, pad_id: int) -> list[np.ndarray]:
        width = max(map(len, prompts))
        padded = [np.pad(p, (width - len(p), 0), constant_values=pad_id) for p in prompts]
        pairs = zip(padded, prompts, strict=True)
        return [self.forward(row)[width - len(ids_T) :] for row, ids_T in pairs]


class TopTwenty(Right):
    """Keeps a default top-k of 20."""

    def generate(self, ids_T: np.ndarray, *, max_new: int, seed: int = 0, **kw: float) -> list[int]:
        if kw["temperature"] < 2:
            return super().generate(ids_T, max_new=max_new, seed=seed, **kw)
        ids = list(ids_T)
        for t in range(max_new):
            order = np.argsort(-self.forward(np.array(ids))[-1])
            ids.append(int(order[t % 20]))
        return ids[len(ids_T) :]


class NoTopP(Right):
    def generate(self, ids_T: np.ndarray, *, max_new: int, **kw: float) -> list[int]:
        return super().generate(ids_T, max_new=max_new, **{**kw, "top_p": 1.0})


class Forgetful(Right):
    """Decodes each token without what came before."""

    def generate(self, ids_T: np.ndarray, *, max_new: int, **_kw: float) -> list[int]:
        ids = [int(ids_T[-1])]
        for _ in range(max_new):
            ids.append(int(self.forward(np.array(ids[-1:]))[-1].argmax()))
        return ids[1:]


class Unnormalised(Right):
    normalised = True

    def forward(self, ids_T: Any, position_T: Any = None, **options: Any) -> np.ndarray:
        return self.model.forward(ids_T, position_T, **options)


class AddsPlaces(Right):
    """Adds learned positions, as no model of the family does."""

    def forward(self, ids_T: Any, position_T: Any = None, **options: Any) -> np.ndarray:
        return super().forward(ids_T, position_T, **options) + np.sin(position_T)[:, None]


def verdicts(
    runner: type[Right], laws: tuple[ModelLaw, ...] = tuple(memory.LAWS)
) -> dict[str, str]:
    class Offered:
        load = staticmethod(runner)

    ordinary = Effort(examples=1, shrink=False)
    results = check_model_laws(Namespace(Offered()), seed=1, laws=laws, effort=ordinary)
    return {r.case.removeprefix("law-"): r.verdict.value for r in results}


def test_every_law_of_memory_holds_for_an_engine_that_offers_everything() -> None:
    found = verdicts(Right)
    assert found.pop("probabilities-sum-to-one") == "skipped"
    assert set(found.values()) == {"pass"}
    assert set(verdicts(Normalised).values()) == {"pass"}


@pytest.mark.parametrize(
    ("runner", "broken"),
    [
        (NotReset, {"decode-is-prefill", "chunks-are-prefill", "cache-is-latent"}),
        (ShortBlock, {"chunks-are-prefill"}),
        (Unnormed, {"cache-is-latent"}),
        (WrongPrefix, {"earlier-prompts-leave-nothing"}),
        (SeesPadding, {"rows-are-alone"}),
        (TopTwenty, {"ends-of-sampling"}),
        (NoTopP, {"ends-of-sampling"}),
        (Forgetful, {"greedy-is-own-best"}),
        (Unnormalised, {"probabilities-sum-to-one"}),
    ],
)
def test_a_law_of_memory_breaks_for_the_bug_it_is_about(
    runner: type[Right], broken: set[str]
) -> None:
    names = {law.name for law in memory.LAWS}
    found = verdicts(runner)
    assert {n for n, v in found.items() if v == "fail"} & names >= broken
    rest = names - broken - {"greedy-is-own-best", "ends-of-sampling", "probabilities-sum-to-one"}
    assert {found[n] for n in rest} == {"pass"}


def test_positions_without_rotation_are_seen() -> None:
    chosen = tuple(law for law in models.LAWS if law.name == "no-rope-no-positions")
    assert verdicts(AddsPlaces, chosen) == {"no-rope-no-positions": "fail"}


def test_what_an_engine_does_not_offer_is_skipped_with_its_name() -> None:
    class Bare:
        def __init__(self, directory: Path) -> None:
            self.model = Model(Checkpoint(directory))

        def forward(self, ids_T: Any, position_T: Any) -> Any:
            return self.model.forward(ids_T, position_T)

    class Offered:
        load = staticmethod(Bare)

    asked = check_model_laws(Namespace(Offered()), seed=1, laws=memory.LAWS)
    results = {r.case: r for r in asked}
    skipped = [r.message for r in results.values() if r.verdict == "skipped"]
    assert "the engine offers no new_cache" in skipped
    assert "the engine offers no forward_batch" in skipped
    assert "the engine offers no generate" in skipped
    assert {r.verdict.value for r in results.values()} == {"pass", "skipped"}
    assert len(results) == len(memory.LAWS)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")  # foreign warnings
@pytest.mark.parametrize(
    ("address", "module", "offered"),
    [
        ("hf:", "transformers", {43, 44, 47, 48, 58, 65}),
        ("mlx:", "mlx_lm", {43, 44, 45, 47, 65}),
        ("gguf:", "xllamacpp", {47, 65}),
    ],
)
def test_foreign_engines_keep_the_laws_of_whole_models(
    address: str, module: str, offered: set[int]
) -> None:
    pytest.importorskip(module, reason=f"{module} is of an extra of peers")
    engine = open_engine(address)
    try:
        results = list(check_model_laws(engine, seed=1))
    finally:
        engine.close()
    assert [r for r in results if r.verdict.failed] == []
    passed = {r.case.removeprefix("law-") for r in results if r.verdict == "pass"}
    assert {law.number for law in memory.LAWS if law.name in passed} == offered
