"""A small Kimi vocabulary, and the real one where it is at hand."""

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from k2ref.spec import spec_path

ROOT = Path(__file__).parents[2]
MERGES = [b"he", b"ll", b"hell", b"hello", b" w", b"or", b"\xe4\xb8", b"\xe4\xb8\x96", b"00"]


def names(base: int, *, without: tuple[str, ...] = ()) -> dict[int, str]:
    """Name the reserved ids as K2.5 does, moved to a smaller vocabulary: base -> names by id."""
    table = cases("control_tokens")[0]["names"]
    return {base + number - 163584: name for name, number in table.items() if name not in without}


def write_vocabulary(
    folder: Path, named: Mapping[int, str] | None = None, *, merges: list[bytes] = MERGES
) -> Path:
    """Write the two files of a tokenizer: all bytes, a few merges, 256 reserved ids."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [bytes([n]) for n in range(256)] + merges
    lines = [f"{base64.b64encode(token).decode()} {n}" for n, token in enumerate(tokens)]
    (folder / "tiktoken.model").write_text("\n".join(lines) + "\n")
    named = names(len(tokens)) if named is None else named
    decoder = {str(n): {"content": name} for n, name in named.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    return folder


def cases(name: str) -> list[dict]:
    """Read a file of spec/chat: name -> its cases."""
    path = spec_path(f"chat/{name}.json")
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


def real_folder() -> Path:
    """Find the released vocabulary: -> folder; skips the test where there is none."""
    folder = Path(
        os.environ.get("K2_TOKENIZER_DIR", ROOT.parent / "shared" / "data" / "kimi-tokenizer")
    )
    if not (folder / "tiktoken.model").is_file():
        pytest.skip("no Kimi vocabulary: set K2_TOKENIZER_DIR to a folder with tiktoken.model")
    return folder
