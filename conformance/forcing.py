"""Where an engine first leaves the reference: each tensor from the engine's own inputs.

The reference runs once more, and whenever it has computed a named tensor (`spec/taps.toml`) it is
compared with the engine's and then overwritten by it. An error is thus seen where it is made and
nowhere else; routing is replayed, whatever the precision; and no limit has to allow for what went
before. A tensor that the engine does not report is the reference's, from the engine's last ones.

σ of each tensor comes from runs of the same kind that are disturbed by one unit (`noise`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conformance import compare
from conformance.compare import Precision
from conformance.noise import RUNS, disturbing
from conformance.results import Agreement, Verdict
from conformance.variant import Variant
from k2ref import oracle
from k2ref.checkpoint import Checkpoint
from k2ref.model import Model
from k2ref.numerics import Numerics

ROUTER = "moe.router."
LAYER_RULE = {
    "embed": "ends",
    "final.norm": "ends",
    "logits": "ends",
    "attn.residual": "residual",
    "out": "residual",
}


@dataclass(frozen=True)
class Finding:
    """One tensor of one layer, judged."""

    tap: str
    requirement: str
    agreement: Agreement


def requirement_of(tap: str) -> str:
    """Name the requirement that a tensor speaks of: tap -> id."""
    name = tap.split(".", 1)[1] if tap.startswith("L") else tap
    if name in LAYER_RULE:
        return f"layer:{LAYER_RULE[name]}"
    if name.startswith(ROUTER):
        return "layer:router"
    return "layer:attention" if name.startswith("attn.") else "layer:feed-forward"


class Forced:
    """A reference run on an engine's tensors: what it computes for each, before it is replaced."""

    def __init__(self, model: Model, taps: Mapping[str, np.ndarray]) -> None:
        self.model = model
        self.taps = taps
        self.computed: dict[str, np.ndarray] = {}

    def run(self, ids_T: np.ndarray, position_T: np.ndarray) -> dict[str, np.ndarray]:
        """Run tokens: ids_T, position_T -> what the reference makes of the engine's tensors."""
        self.model.forward(ids_T, position_T, trace=self)
        return self.computed

    def __call__(self, name: str, array: np.ndarray, /) -> None:
        """Keep what was computed and go on with the engine's: name, array."""
        self.computed[name] = array.copy()
        found = self.taps.get(name)
        if found is not None and found.shape == array.shape and _usable(name, found, self.model):
            array[...] = found


def _usable(name: str, found: np.ndarray, model: Model) -> bool:
    """Tell whether the reference can go on with a tensor: choices must be experts."""
    if not name.endswith(f"{ROUTER}experts"):
        return bool(np.isfinite(found.astype(np.float64)).all())
    return bool((found >= 0).all() and (found < model.config.n_routed_experts).all())


@dataclass(frozen=True)
class Reference:
    """What an engine is compared with: a checkpoint, and the engine's answers to open questions."""

    checkpoint: Path
    numerics: Numerics
    inv_freq_Z: np.ndarray | None = None

    def model(self, *, ops: object = oracle) -> Model:
        """Open it in float64: -> Model."""
        return Model(
            Checkpoint(self.checkpoint),
            ops=ops,
            dtype=np.float64,
            numerics=self.numerics,
            attention="expanded",
            inv_freq_Z=self.inv_freq_Z,
        )


def stage_noise(
    reference: Reference,
    ids_T: np.ndarray,
    position_T: np.ndarray,
    taps: Mapping[str, np.ndarray],
    precision: Precision,
    *,
    runs: int = RUNS // 2,
) -> dict[str, np.ndarray]:
    """Measure the noise of each tensor made from the engine's own: -> tap to sigma per row."""
    exact = Forced(reference.model(), taps).run(ids_T, position_T)
    squares: dict[str, list[np.ndarray]] = {name: [] for name in exact}
    for seed in range(runs):
        ops = Variant(disturbing(precision, seed))
        for name, array in Forced(reference.model(ops=ops), taps).run(ids_T, position_T).items():
            squares[name].append(np.mean(np.square(array - exact[name]), axis=-1))
    sigma = {name: np.sqrt(np.mean(s, axis=0)) for name, s in squares.items()}
    return {name: np.maximum(s, np.median(s)) for name, s in sigma.items()}


def findings(
    reference: Reference,
    ids_T: np.ndarray,
    position_T: np.ndarray,
    taps: Mapping[str, np.ndarray],
    precision: Precision,
    *,
    sigma: Mapping[str, np.ndarray] | None = None,
) -> Iterator[Finding]:
    """Judge every tensor an engine reports, in causal order: taps -> findings.

    `sigma`: the noise of each tensor where it is known already (`stage_noise`).
    """
    model, numerics = reference.model(), reference.numerics
    expected = Forced(model, taps).run(ids_T, position_T)
    if sigma is None:
        sigma = stage_noise(reference, ids_T, position_T, taps, precision)
    for name, array in expected.items():
        if name not in taps:
            continue
        if name.endswith(f"{ROUTER}experts"):
            outcome = _choice(model, name, taps, expected, precision, numerics)
        elif name.endswith(f"{ROUTER}weights"):
            outcome = _weights(model, name, taps, precision, numerics)
        else:
            floor = _residual_floor(name, array, precision)
            sigma_T = np.maximum(sigma[name], floor)
            outcome = compare.within_noise(taps[name], array, sigma_T, precision)
        yield Finding(name, requirement_of(name), outcome)


def _residual_floor(name: str, array: np.ndarray, precision: Precision) -> np.ndarray:
    """Allow the one rounding of a sum of residuals, which the disturbed runs do not make."""
    if requirement_of(name) != "layer:residual" and not name.endswith("ffn.out"):
        return np.zeros(array.shape[:-1])
    return np.asarray(0.5 * precision.store * np.sqrt(np.mean(np.square(array), axis=-1)))


def _scores(
    model: Model, name: str, taps: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> np.ndarray:
    base = name.rsplit(".", 1)[0]
    logits_TE = taps.get(f"{base}.logits", expected[f"{base}.logits"])
    return oracle.router_scores(logits_TE.astype(np.float64))


def _delta(precision: Precision, numerics: Numerics) -> float:
    low = numerics.router_dtype == "model" or precision.name == "f64"
    return compare.ROUTER_DELTA[precision.name if low else "f32"]


def _choice(
    model: Model,
    name: str,
    taps: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    precision: Precision,
    numerics: Numerics,
) -> Agreement:
    found, array = taps[name], expected[name]
    if found.shape != array.shape or found.dtype.kind not in "iu":
        came = f"wanted integers {list(array.shape)}, got {found.dtype} {list(found.shape)}"
        return Agreement(Verdict.ERRORED, "slack", float("inf"), 0.0, message=came)
    layer = name.split(".", 1)[0][1:]
    bias_E = model.checkpoint[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"]
    choice_TE = _scores(model, name, taps, expected) + bias_E.astype(np.float64)
    if model.config.n_group > 1:
        exact = Variant(disturbing(Precision("none", np.float64, 0.0, 0.0), 0))
        groups = model.config.n_group, model.config.topk_group
        choice_TE = exact.keep_groups(choice_TE, *groups, float(numerics.mask_fill))
    delta = _delta(precision, numerics)
    logits_known = f"{name.rsplit('.', 1)[0]}.logits" in taps
    # without the engine's logits, their own noise decides between experts as well
    allowed = delta if logits_known else delta + _logit_noise(choice_TE, precision)
    return compare.admissible(choice_TE, found, delta=allowed)


def _logit_noise(choice_TE: np.ndarray, precision: Precision) -> float:
    return 8 * precision.store * float(np.abs(choice_TE).max())


def _weights(
    model: Model,
    name: str,
    taps: Mapping[str, np.ndarray],
    precision: Precision,
    numerics: Numerics,
) -> Agreement:
    base = name.rsplit(".", 1)[0]
    experts_TK, logits_TE = taps.get(f"{base}.experts"), taps.get(f"{base}.logits")
    if experts_TK is None or logits_TE is None:
        return Agreement(Verdict.SKIPPED, "weights", 0.0, 0.0, message="no logits or experts")
    config = model.config
    scores_TE = oracle.router_scores(logits_TE.astype(np.float64))
    safe_TK = np.clip(experts_TK.astype(np.int64), 0, scores_TE.shape[1] - 1)
    expected_TK = np.take_along_axis(scores_TE, safe_TK, axis=1)
    if config.norm_topk_prob:
        expected_TK = expected_TK / expected_TK.sum(axis=1, keepdims=True)
    expected_TK = expected_TK * config.routed_scaling_factor
    router = precision if numerics.router_dtype == "model" else compare.PRECISIONS["f32"]
    return compare.weights_agree(taps[name], expected_TK, router)
