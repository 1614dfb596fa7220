"""Sampled tokens: each in the set that temperature and top-p leave, all by their distribution.

A runner may offer `first_tokens(ids_T, *, count, temperature, top_p, seed) -> ids_N`, as many
independent draws of the next token from one pass; without it `generate` is asked again and again.
"""

from typing import Any

import numpy as np

from conformance import compare, kit
from conformance.checks.asked import Asked, ids_of, limit_of, unreported
from conformance.engine import EngineError, NotOffered, attempt
from conformance.rates import g_test, holm, smallest_divergence
from conformance.results import Agreement, Verdict
from k2ref.generate import Sampling, probabilities
from k2ref.model import Model

PROMPT, LONG, FEW = 8, 48, 150
DRAWS = {"f64": 10_000, "f32": 10_000, "bf16": 1_000}  # rounding must not show in the counts
TOP_P, TEMPERATURE = 0.6, 0.7
TRIES, SEVERAL = 20, 4  # prompts tried, tokens that top-p should leave
EDGE = {"f64": 1e-9, "f32": 1e-5}  # of the sum of probabilities at the border of top-p
CLEAR_EDGE = 1e-3  # how far from top-p sums must stay where counts are taken
ALPHA = 1e-4  # one false alarm in ten thousand runs of a correct sampler


def prompt_of(model: Model, seed: int) -> np.ndarray:
    """Draw a prompt after which several tokens stay, and no sum is near the cut: -> ids_T."""
    random = np.random.default_rng(seed)
    for _ in range(TRIES):
        ids_T = random.integers(3, model.config.vocab_size, PROMPT)
        ahead_W = ahead_each(model.forward(ids_T, last_only=True)[-1])
        kept = (ahead_W < TOP_P).sum()
        if kept >= SEVERAL and np.abs(ahead_W - TOP_P).min() >= CLEAR_EDGE:
            break
    return ids_T


def support(asked: Asked) -> tuple[Agreement, dict[str, Any]]:
    """Judge sampled tokens by the sum of what is more probable.

    In a low precision next tokens alone: what is cached may have visited other experts.
    """
    unreported(asked)
    if asked.low:
        new_N = _drawn(asked, TOP_P)
        row_W, free_W = (x[-1] for x in asked.expected(asked.ids_T[:1]))
        logits_NW, free_NW = (np.tile(x, (len(new_N), 1)) for x in (row_W, free_W))
    else:
        new_N = asked.tokens(max_new=LONG, seed=1, temperature=TEMPERATURE, top_p=TOP_P)
        logits_NW, free_NW = asked.expected(new_N)
    before_N, free_N = _ahead(logits_NW, new_N), _ahead(free_NW, new_N)
    place, limit = int(before_N.argmax()), TOP_P + _edge(asked)
    worst = float(before_N[place])
    verdict = Verdict.PASS if worst < limit else Verdict.FAIL
    message = f"token {place}: {worst:.3f} of the probability is ahead of it, top-p is {TOP_P}"
    kept = "" if verdict is Verdict.PASS else message
    agreement = Agreement(verdict, "support", worst, limit, (place,), message=kept)
    return agreement, {"ahead": worst - TOP_P, "ahead_before_replay": float(free_N.max()) - TOP_P}


def _edge(asked: Asked) -> float:
    return limit_of(asked, "support_edge") or EDGE[asked.precision.name]


def _ahead(logits_TW: np.ndarray, new_T: np.ndarray) -> np.ndarray:
    """Sum what is more probable than each token: logits_TW, new_T -> before_T."""
    probability_TW = np.exp(compare.log_probabilities(logits_TW / TEMPERATURE))
    own_T = probability_TW[np.arange(len(new_T)), new_T]
    return np.asarray(np.where(probability_TW > own_T[:, None], probability_TW, 0).sum(axis=1))


def ahead_each(logits_W: np.ndarray) -> np.ndarray:
    """Sum what is more probable than each token of the vocabulary: logits_W -> before_W."""
    probability_W = np.exp(compare.log_probabilities(logits_W / TEMPERATURE))
    order_W = np.argsort(-probability_W)
    ahead_W = np.empty_like(probability_W)
    ahead_W[order_W] = np.cumsum(probability_W[order_W]) - probability_W[order_W]
    return ahead_W


def distribution(asked: Asked) -> tuple[Agreement, dict[str, Any]]:
    """Judge the counts of next tokens, without a cut and with one: G-tests, Holm over both."""
    if not kit.has("scipy"):
        raise NotOffered("counts are judged with SciPy: python -m pip install 'k2ref[kit]'")
    unreported(asked)
    p_values: list[float] = []
    figures: dict[str, Any] = {}
    for top_p in (1.0,) if asked.low else (1.0, TOP_P):  # roundings move the cut
        expected_W = _clear(asked, top_p)
        counts_W = np.bincount(_drawn(asked, top_p), minlength=len(expected_W))
        p_values.append(g_test(counts_W, expected_W))
        seen = smallest_divergence(expected_W, int(counts_W.sum()), ALPHA / 2)
        figures |= {f"draws_top_p_{top_p}": int(counts_W.sum()), f"sees_kl_top_p_{top_p}": seen}
    rejected, p = any(holm(p_values, ALPHA)), min(p_values)
    power = max(v for k, v in figures.items() if k.startswith("sees_kl"))
    message = f"{figures['draws_top_p_1.0']} draws see a divergence of {power:.2g} in 99 of 100"
    if rejected:
        message = f"next tokens do not fit the distribution: p = {p:.2g}; {message}"
    verdict = Verdict.FAIL if rejected else Verdict.PASS
    return Agreement(verdict, "G-test", p, ALPHA / 2, message=message), figures


def _clear(asked: Asked, top_p: float) -> np.ndarray:
    """Compute what is drawn from, if no rounding can move the cut: -> probability_W."""
    logits_W = asked.expected(asked.ids_T[:1])[0][-1]
    ahead_W = ahead_each(logits_W)
    if top_p < 1 and np.abs(ahead_W - top_p).min() < CLEAR_EDGE:
        raise NotOffered(f"a token lies within {CLEAR_EDGE:.2g} of the cut by top-p {top_p}")
    return probabilities(logits_W, Sampling(temperature=TEMPERATURE, top_p=top_p))


def _drawn(asked: Asked, top_p: float) -> np.ndarray:
    """Draw next tokens, many at once where the engine can: -> ids_N."""
    runner, W = asked.runner, asked.model.config.vocab_size
    options = {"temperature": TEMPERATURE, "top_p": top_p}
    count = DRAWS[asked.precision.name]
    if callable(offered := getattr(runner, "first_tokens", None)):
        found_N = ids_of(attempt(offered, asked.ids_T, count=count, seed=1, **options), W)
        if len(found_N) != count:
            raise EngineError(f"first_tokens: wanted {count} ids, got {len(found_N)}")
        return found_N
    if type(runner) is Model and "generate" not in vars(runner):
        return _drawn_from(runner, asked.ids_T, count, Sampling(seed=1, **options))
    return np.array([asked.tokens(max_new=1, seed=s, **options)[0] for s in range(FEW)])


def _drawn_from(model: Model, ids_T: np.ndarray, count: int, sampling: Sampling) -> np.ndarray:
    probability_W = probabilities(model.forward(ids_T, last_only=True)[-1], sampling)
    random = np.random.Generator(np.random.Philox(sampling.seed))
    return random.choice(len(probability_W), size=count, p=probability_W)
