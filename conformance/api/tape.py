"""A checkpoint that plays a tape: any correct engine emits the chosen tokens, one after the other.

The forward pass is real (attention, routing, experts, in INT4), only the ends are chosen: large
embeddings, so that the last hidden state points where the embedding of the last token points, and
an output matrix whose row of token t+1 is the embedding of token t. The next token then depends on
the last one alone, by a margin of about 20, which no precision of weights or cache can turn.

So a server's parsers, streams, templates and clients can be tested with a model that runs. Every
generation prompt ends in the same token, therefore every turn plays the tape again. It says nothing
about numerics.
"""

import base64
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from k2ref.errors import InputError
from k2ref.presets import NANO
from k2ref.spec import spec_path
from k2ref.synth import make_checkpoint
from k2ref.tokenizer import NAMES_FILE, RANKS_FILE, RESERVED

CALL = (
    *("<think>", "I should", " look it", " up.", "</think>", "<|tool_calls_section_begin|>"),
    *("<|tool_call_begin|>", "functions.get_weather:0", "<|tool_call_argument_begin|>"),
    *('{"city": "', "Paris", '"}', "<|tool_call_end|>", "<|tool_calls_section_end|>", "<|im_end|>"),
)
_EMBEDDING = 16.0


def control_names() -> dict[str, int]:
    """Read the named control tokens, counted from the first reserved id: -> offsets by name."""
    table = json.loads(spec_path("chat/control_tokens.json").read_text(encoding="utf-8"))
    return {name: number - 163584 for name, number in table["cases"][0]["names"].items()}


def write_tape(
    folder: Path, tape: Sequence[str] = CALL, *, start: str = "<|im_middle|>", form: str = "int4"
) -> Path:
    """Write a checkpoint and a tokenizer: folder, tape, last token of the prompt -> folder.

    Raises:
        InputError: a token stands twice on the tape; the next one would be undetermined.
    """
    line = [start, *tape]
    if len(set(line)) < len(line):
        raise InputError("every token of a tape stands there once, the prompt's last one included")
    names = control_names()
    chunks = [token.encode() for token in line if token not in names]
    tokens = [bytes([n]) for n in range(256)]
    tokens += [chunk for chunk in chunks if len(chunk) > 1]
    config = dataclasses.replace(
        NANO, vocab_size=len(tokens) + RESERVED, num_hidden_layers=2, n_routed_experts=16
    )
    make_checkpoint(folder, config, form=form, seed=1)
    _write_tokenizer(folder, tokens, names)
    ids = [len(tokens) + names[t] if t in names else tokens.index(t.encode()) for t in line]
    _set_ends(folder, ids)
    return folder


def _write_tokenizer(folder: Path, tokens: list[bytes], names: dict[str, int]) -> None:
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    (folder / RANKS_FILE).write_text("".join(lines), encoding="ascii")
    table = {str(len(tokens) + n): {"content": name, "special": True} for name, n in names.items()}
    text = json.dumps({"added_tokens_decoder": table}, indent=1)
    (folder / NAMES_FILE).write_text(text, encoding="utf-8")


def _set_ends(folder: Path, ids: Sequence[int]) -> None:
    """Choose embedding, last norm and output matrix so that each id is followed by the next."""
    for path in folder.glob("*.safetensors"):
        arrays = dict(load_file(path))
        if "model.embed_tokens.weight" not in arrays:
            continue
        shape = arrays["model.embed_tokens.weight"].shape
        random = np.random.default_rng(7)
        embed_WD = random.standard_normal(shape).astype(np.float32)
        head_WD = 0.02 * random.standard_normal(shape).astype(np.float32)
        for now, then in itertools.pairwise(ids):
            head_WD[then] = embed_WD[now] * 1.5 / np.sqrt(shape[1])
        ends = {
            "model.embed_tokens.weight": embed_WD * _EMBEDDING,
            "model.norm.weight": np.ones(shape[1], np.float32),
            "lm_head.weight": head_WD,
        }
        kind = arrays["model.embed_tokens.weight"].dtype
        arrays |= {name: value.astype(kind) for name, value in ends.items()}
        save_file(arrays, path, metadata={"format": "pt"})
