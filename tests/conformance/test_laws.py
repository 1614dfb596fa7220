"""Laws hold for correct engines, break for wrong ones, and draw what they claim to draw."""

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import find, given

from conformance.checks.laws import MODEL_LAWS, OPERATION_LAWS, Effort, check_law, check_laws
from conformance.compare import PRECISIONS
from conformance.engine import Namespace, NotOffered
from conformance.laws import Ops, draws
from conformance.mutants import BUGS, engine_with
from conformance.noise import zoo
from conformance.results import Verdict
from conformance.spec import requirements
from conformance.variant import Variant
from k2ref import oracle

QUICK = Effort(examples=3, shrink=False)


def law(name: str, engine: Any, precision: str = "f32", effort: Effort = QUICK) -> tuple[str, str]:
    ops = Ops(Namespace(engine, precision=precision), PRECISIONS[precision])
    found = check_law(ops, next(x for x in OPERATION_LAWS if x.name == name), seed=1, effort=effort)
    return found.verdict.value, found.message


@pytest.mark.parametrize("precision", ["f64", "f32", "bf16"])
def test_every_law_holds_for_the_reference(precision: str) -> None:
    engine = Namespace(oracle, precision=precision)
    bad = [r for r in check_laws(engine, seed=1, effort=QUICK) if r.verdict is not Verdict.PASS]
    assert bad == []


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "name"), [(p, n) for p in ("f32", "bf16") for n in zoo(p)])
def test_no_law_accuses_a_correct_way_to_compute(precision: str, name: str) -> None:
    engine = Namespace(Variant(zoo(precision)[name]), precision=precision)
    results = list(check_laws(engine, seed=2, effort=Effort(30)))
    assert [r for r in results if r.verdict is not Verdict.PASS] == []


def test_laws_have_names_of_their_own_and_cite_requirements() -> None:
    names = [x.name for x in OPERATION_LAWS]
    assert len(set(names)) == len(names)
    assert {x.requirement for x in OPERATION_LAWS} <= set(requirements())
    assert {op for x in OPERATION_LAWS for op in x.needs} <= set(oracle.OPERATIONS)


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("words-mean-codes", "nib_swap"),
        ("scale-rules-its-group", "g64"),
        ("unit-root-mean-square", "eps1e-5"),
        ("pairs-are-neighbours", "halfsplit"),
        ("yarn-bands", "bfast32"),
        ("influence-is-a-triangle-absorbed", "mask+1"),
        ("cache-rows-may-move-expanded", "window"),
        ("chunks-at-block-edges-absorbed", "decode_mask"),
        ("rows-of-kv-b", "kvb_flat"),
        ("weights-ignore-bias", "bias_w"),
        ("equal-scores", "bias_bf16"),
        ("weights-sum-to-factor", "rs2"),
        ("one-token-at-a-time", "capacity"),
    ],
)
def test_a_law_breaks_for_the_bug_it_is_about(name: str, bug: str) -> None:
    engine = engine_with(BUGS[bug], "f32").offered
    effort = Effort(examples=20, shrink=False)
    assert law(name, engine, effort=effort)[0] == "fail"


def _first_row_scales(x_TL: Any, packed_MP: Any, scale_MG: Any, **options: Any) -> Any:
    scale_MG = np.broadcast_to(scale_MG[:1], scale_MG.shape)
    return oracle.int4_linear(x_TL, packed_MP, scale_MG, **options)


def _finite_mask(logits: Any) -> Any:
    return oracle.softmax(np.maximum(logits, -10))


def after(op: str, change: Any) -> dict[str, Any]:
    """Change what the oracle answers: operation, change -> what an engine offers."""
    return {op: lambda *args, **kw: change(getattr(oracle, op)(*args, **kw))}


def before(op: str, **changes: Any) -> dict[str, Any]:
    """Change what the oracle is asked: operation, argument to change -> what an engine offers."""

    def changed(*args: Any, **kw: Any) -> Any:
        asked = inspect.signature(getattr(oracle, op)).bind(*args, **kw).arguments
        return getattr(oracle, op)(**{**asked, **{n: f(asked[n]) for n, f in changes.items()}})

    return {op: changed}


def _weigh_first(routing: Any) -> Any:
    weights_TK = routing.weights_TK.copy()
    weights_TK[:, 0] *= 1.5
    return routing._replace(weights_TK=weights_TK)


PLANTED: dict[str, dict[str, Any]] = {
    "product-is-linear": after("int4_linear", np.tanh),
    "unit-gives-column": after("int4_linear", lambda out: 1.01 * out),
    "row-shards-join": {"int4_linear": _first_row_scales},
    "norm-is-odd": after("rms_norm", np.abs),
    "silu-and-its-mirror": after("silu", np.tanh),
    "softmax-shift": {"softmax": np.exp},
    "masked-logits-vanish": {"softmax": _finite_mask},
    "factor-one": after("yarn_mscale", lambda m: m + 0.1),
    "absorbed-is-expanded": before("attend_absorbed", w_uk_HNC=lambda w: 1.1 * w),
    "raising-a-bias-keeps": before("route", bias_E=np.negative),
    "router-rows": after("router_logits", lambda out: out + np.arange(out.shape[1])),
    "shards-add": after("moe", np.tanh),
    "places-may-move": before("moe", routing=_weigh_first),
}
for form in ("absorbed", "expanded"):
    op = f"attend_{form}"
    PLANTED |= {
        f"heads-may-move-{form}": after(op, lambda out: out * [[1.1], [1.0]]),
        f"values-are-linear-{form}": after(op, np.tanh),
        f"scale-and-query-{form}": before(op, scale=lambda _scale: 0.3),
    }


@pytest.mark.parametrize("name", PLANTED)
def test_a_law_that_no_known_bug_breaks_breaks_for_a_planted_one(name: str) -> None:
    ours = {op: getattr(oracle, op) for op in oracle.OPERATIONS}
    engine = SimpleNamespace(**{**ours, **PLANTED[name]})
    assert law(name, engine, effort=Effort(20, shrink=False))[0] == "fail"


def test_the_laws_are_those_of_the_design() -> None:
    """1 to 59 and 65 concern numbers; the others are the chat's."""
    within = {
        16: "influence-is-a-triangle-absorbed",
        17: "influence-is-a-triangle-absorbed",
        18: "influence-is-a-triangle-absorbed",
        59: "greedy-is-own-best",  # with speculation switched on: it is the engine's own matter
    }
    laws = (*OPERATION_LAWS, *MODEL_LAWS)
    assert set(within.values()) <= {x.name for x in laws}
    assert {x.number for x in laws} | set(within) == {*range(1, 60), 65}


def test_a_broken_law_shows_a_small_input_and_an_engine_that_raises_is_errored() -> None:
    def raises(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel")

    assert law("norm-is-odd", SimpleNamespace(rms_norm=raises)) == (
        "errored",
        "EngineError: RuntimeError: no kernel",
    )
    zero = SimpleNamespace(rotate=lambda x, angle: np.zeros_like(x))
    verdict, message = law("still-at-zero", zero, effort=Effort(10))
    assert verdict == "fail"
    assert "rotation by 0" in message
    assert law("still-at-zero", SimpleNamespace())[0] == "skipped"


# the strategies


def test_a_law_whose_inputs_an_engine_does_not_take_is_skipped() -> None:
    def long_rows(packed_MP: np.ndarray, columns: int) -> np.ndarray:
        if columns < 64:
            raise NotOffered(f"no {columns} columns")
        return oracle.int4_unpack(packed_MP, columns)

    engine = Namespace(SimpleNamespace(int4_unpack=long_rows))
    (result,) = check_laws(engine, seed=0, only=("law-words-mean-codes",))
    assert (result.verdict.value, result.message) == ("skipped", "no 32 columns")


def test_spikes_dwarf_and_mixed_rows_differ_in_size() -> None:
    spike = draws.make("spike", 0, 3, (2, 16))
    assert (np.abs(spike).max(axis=1) > 20 * np.median(np.abs(spike), axis=1)).all()
    mixed = np.abs(draws.make("mixed", 0, 3, (16, 8))).max(axis=1)
    assert mixed.max() / mixed.min() > 64
    assert len(set(draws.make("equal", 0, 3, (2, 8)).ravel().tolist())) == 1
    assert (draws.make("sparse", 0, 3, (8, 8)) == 0).mean() > 0.5
    assert draws.make("shifted", 0, 3, (8, 8)).mean() > 3


@given(draws.arrays(3, 8))
def test_drawn_arrays_are_bfloat16_values(x: np.ndarray) -> None:
    assert ((x.view(np.uint32) & 0xFFFF) == 0).all()


def test_positions_lie_on_both_sides_of_the_trained_length() -> None:
    assert find(draws.positions(3), lambda p: bool(p[-1] > 4096))[-1] > 4096
    assert find(draws.positions(3), lambda p: bool(p[-1] < 4096))[-1] < 4096


def test_every_kind_is_drawn() -> None:
    for kind in ("equal", "sparse"):
        wanted = draws.make(kind, 0, 0, (3, 4))
        found = find(draws.arrays(3, 4), lambda x, w=wanted: bool((x == w).all()))
        assert (found == wanted).all()
