"""Levels L3 and L4: a checkpoint in the engine, layer by layer and end to end."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conformance import compare
from conformance.checks.angles import TAP, angle_errors
from conformance.checks.observe import Observed, load, observe
from conformance.compare import find_precision
from conformance.engine import Engine, EngineError, NotOffered
from conformance.forcing import Finding, Forced, Reference, findings
from conformance.profiles import Prompt, prompts
from conformance.results import Agreement, Result, Verdict
from conformance.spec import find_requirement, read_limits
from k2ref.model import Model
from k2ref.trace import Recorder

CLEAR_MARGIN = 1e-5  # float32 logits move scores by less; nearer ties may flip
LAYER_REQUIREMENTS = ("attention", "router", "feed-forward", "residual", "ends")


Noise = dict[str, dict[str, np.ndarray]]


def check_model(
    engine: Engine,
    checkpoint: Path,
    *,
    seed: int,
    levels: frozenset[str],
    noise: Noise | None = None,
) -> Iterator[Result]:
    """Put a checkpoint to an engine: engine, directory, seed, levels -> results of L3 and L4.

    `noise`: prompt to the noise of each tensor, where it is known; measured anew without it.
    """
    asked = prompts(checkpoint, seed)
    try:
        runner = load(engine, checkpoint)
    except EngineError as error:
        yield from _all(asked, levels, Verdict.ERRORED, f"load: {error}")
        return
    except NotOffered as reason:
        yield from _all(asked, levels, Verdict.SKIPPED, str(reason))
        return
    if runner is None:
        yield from _all(asked, levels, Verdict.SKIPPED, "the engine runs no checkpoint")
        return
    for prompt in asked:
        try:
            observed = observe(runner, prompt, checkpoint)
        except EngineError as error:
            yield from _all([prompt], levels, Verdict.ERRORED, str(error))
            continue
        except NotOffered as reason:
            yield from _all([prompt], levels, Verdict.SKIPPED, str(reason))
            continue
        if "L3" in levels:
            sigma = None if noise is None else noise[prompt.name]
            yield from check_layers(engine, checkpoint, prompt, observed, sigma=sigma)
        if "L4" in levels:
            yield from check_logits(engine, checkpoint, prompt, observed)


def _all(
    asked: list[Prompt], levels: frozenset[str], verdict: Verdict, message: str
) -> Iterator[Result]:
    """Give one verdict on everything that would have been checked: -> results."""
    for prompt in asked:
        ids = [f"layer:{name}" for name in LAYER_REQUIREMENTS] if "L3" in levels else []
        ids += [prompt.requirement, "model:routing"] if "L4" in levels else []
        for id_ in ids:
            yield _result(prompt, id_, verdict, message)


def _result(prompt: Prompt, requirement: str, verdict: Verdict, message: str = "") -> Result:
    return Result(
        case=f"{requirement.replace(':', '-')}-{prompt.name}",
        requirement=requirement,
        level=find_requirement(requirement).level,
        verdict=verdict,
        message=message,
        op="forward",
    )


def check_layers(
    engine: Engine,
    checkpoint: Path,
    prompt: Prompt,
    observed: Observed,
    *,
    sigma: dict[str, np.ndarray] | None = None,
) -> Iterator[Result]:
    """Judge each tensor from the engine's own inputs: -> one result per requirement."""
    precision, taps = find_precision(engine.info.precision), observed.taps
    reference = Reference(checkpoint, engine.info.numerics, observed.inv_freq_Z)
    where = reference, prompt.ids_T, prompt.position_T
    judged = list(findings(*where, taps, precision, sigma=sigma)) if taps else []
    for name in LAYER_REQUIREMENTS:
        mine = [f for f in judged if f.requirement == f"layer:{name}"]
        if not mine:
            message = "the engine reports no tensor of this"
            yield _result(prompt, f"layer:{name}", Verdict.SKIPPED, message)
            continue
        result = _worst(prompt, mine)
        if name == "attention" and TAP in taps:
            result.data["angle_error"] = angle_errors(reference, prompt, taps)
        yield result


def _worst(prompt: Prompt, mine: list[Finding]) -> Result:
    """Name the first tensor that fails, or the one with the largest error: findings -> Result."""
    failing = [f for f in mine if f.agreement.verdict.failed]
    loose = [f for f in mine if f.agreement.verdict is Verdict.LOOSE]
    worst = (failing or loose or sorted(mine, key=lambda f: -(f.agreement.tau or 0)))[0]
    agreement = worst.agreement
    if agreement.verdict is not Verdict.PASS:
        agreement = agreement._replace(message=f"{worst.tap}: {agreement.message}")
    result = _result(prompt, worst.requirement, agreement.verdict).agreeing(agreement)
    figures = {f.tap: f.agreement.tau for f in mine if f.agreement.tau is not None}
    result.data.update(tap=worst.tap, tau_by_tap=figures)
    return result


def check_logits(
    engine: Engine, checkpoint: Path, prompt: Prompt, observed: Observed
) -> Iterator[Result]:
    """Judge logits and routing of a free run: -> two results."""
    reference = Reference(checkpoint, engine.info.numerics, observed.inv_freq_Z)
    model = reference.model()
    recorder = Recorder(".moe.router.")
    expected_TW = model.forward(prompt.ids_T, prompt.position_T, trace=recorder)
    if observed.normalised:
        expected_TW = compare.log_probabilities(expected_TW)
    found_TW = observed.logits_TW
    if find_precision(engine.info.precision).store < 2.0**-20:
        agreement = compare.logits_agree(found_TW, expected_TW)
        result = _result(prompt, prompt.requirement, agreement.verdict).agreeing(agreement)
        result.data.update(_figures(found_TW, expected_TW))
        yield result
        yield _routing(prompt, observed, recorder, model)
        return
    yield _graded(prompt, engine.info.precision, reference, observed, expected_TW)
    message = "routing of a low precision is judged by layers"
    yield _result(prompt, "model:routing", Verdict.SKIPPED, message)


def _figures(found_TW: np.ndarray, expected_TW: np.ndarray) -> dict[str, float]:
    kl_T = compare.divergence(found_TW, expected_TW)
    same_T = found_TW.argmax(axis=1) == expected_TW.argmax(axis=1)
    return {
        "nmse": compare.nmse(found_TW, expected_TW),
        "mean_kl": float(kl_T.mean()),
        "p99_kl": float(np.quantile(kl_T, 0.99)),
        "same_top1": float(same_T.mean()),
    }


def _routing(prompt: Prompt, observed: Observed, recorder: Recorder, model: Model) -> Result:
    """Compare the experts of a free run where the reference's margin is clear: -> Result."""
    names = [n for n in recorder.names() if n.endswith(".experts")]
    if not all(name in observed.taps for name in names):
        message = "the engine does not report its routing"
        return _result(prompt, "model:routing", Verdict.SKIPPED, message)
    flips, unclear, margins = [], 0, []
    for name in names:
        wanted_TK, found_TK = np.sort(recorder[name], axis=1), np.sort(observed.taps[name], axis=1)
        scores_TE = recorder[name.replace(".experts", ".scores")]
        layer = name.split(".", 1)[0][1:]
        bias_E = model.checkpoint[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"]
        margin_T = compare.routing_margin(scores_TE + bias_E, wanted_TK.shape[1])
        margins += margin_T.tolist()
        same = found_TK.shape == wanted_TK.shape
        differs_T = (found_TK != wanted_TK).any(axis=1) if same else np.ones(len(wanted_TK), bool)
        unclear += int((differs_T & (margin_T < CLEAR_MARGIN)).sum())
        flips += [
            f"{name} token {t}" for t in np.flatnonzero(differs_T & (margin_T >= CLEAR_MARGIN))
        ]
    verdict = Verdict.FAIL if flips else Verdict.PASS
    message = f"{len(flips)} flips, first at {flips[0]}" if flips else ""
    agreement = Agreement(verdict, "flips", float(len(flips)), 0.0, message=message)
    result = _result(prompt, "model:routing", verdict).agreeing(agreement)
    result.data.update(near_tie_flips=unclear, margins=margins)
    return result


def _graded(
    prompt: Prompt,
    precision: str,
    reference: Reference,
    observed: Observed,
    expected_TW: np.ndarray,
) -> Result:
    """Grade a low precision by its divergence, its own routing replayed if known: -> Result."""
    figures = _figures(observed.logits_TW, expected_TW)
    routing = {k: v for k, v in observed.taps.items() if k.endswith((".experts", ".weights"))}
    kind = "replayed" if routing else "free"
    if routing:
        forced = Forced(reference.model(), routing)
        replayed_TW = forced.run(prompt.ids_T, prompt.position_T)["logits"]
        replayed = _figures(observed.logits_TW, replayed_TW)
        figures |= {f"replayed_{name}": value for name, value in replayed.items()}
    measure = figures["replayed_mean_kl" if routing else "mean_kl"]
    worst = read_limits()[precision][f"{kind}_mean_kl"]
    verdict = Verdict.PASS if measure <= compare.FAILS_ABOVE * worst else Verdict.FAIL
    message = f"grade {_grade(measure, worst)}: mean divergence {measure:.3g}, routing {kind}"
    agreement = Agreement(verdict, "grade", measure, compare.FAILS_ABOVE * worst, message=message)
    result = _result(prompt, prompt.requirement, verdict).agreeing(agreement)
    result.data.update(figures, grade=_grade(measure, worst))
    return result


def _grade(measure: float, worst: float) -> str:
    """Name how near to the worst correct engine of the precision it is: -> A to D, or F."""
    borders = ((0.5, "A"), (1.0, "B"), (2.0, "C"), (compare.FAILS_ABOVE, "D"))
    return next((letter for factor, letter in borders if measure <= factor * worst), "F")
