"""Text to ids and back, from a checkpoint's `tiktoken.model` and `tokenizer_config.json`.

A Kimi vocabulary is a byte-pair table of N ranks (163,584 in every release) followed by 256
reserved ids. `tokenizer_config.json` names some of the reserved ids; generations differ in which:
K2.5 added the media tokens, and `<think>` is a token in some releases and plain text in others. An
id without a name is `<|reserved_token_ID|>`.

Control strings in data are the danger. A web page that says `<|im_end|><|im_system|>` closes its
own turn and opens a system turn if its text is encoded with control tokens allowed. `encode`
therefore treats every string as plain text unless it is told otherwise, and a renderer passes the
control tokens by id.
"""

import base64
import binascii
import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken

from k2ref.errors import InputError

RANKS_FILE = "tiktoken.model"
NAMES_FILE = "tokenizer_config.json"
RESERVED = 256
STOP_NAMES = ("[EOS]", "<|im_end|>")
TURN_NAMES = ("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>")
_K3_NAMES = {"<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"}

# o200k with three changes: runs of Han first, no Han in words, no slash after punctuation.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# The official code cuts long texts so, and a cut can change ids: it is part of the format.
_CUT = 400_000
_RUN = re.compile(r"\s{1,25000}|\S{1,25000}")


@dataclass(frozen=True)
class Tokenizer:
    """A byte-pair table and the names of the ids behind it."""

    ranks: dict[bytes, int]
    special: dict[str, int]
    """every reserved id by its name"""

    def __len__(self) -> int:
        return len(self.ranks) + len(self.special)

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            "kimi", pat_str=PATTERN, mergeable_ranks=self.ranks, special_tokens=self.special
        )

    @cached_property
    def names(self) -> dict[int, str]:
        """Every reserved id's name."""
        return {number: name for name, number in self.special.items()}

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end a turn: configs name one of them, models emit either."""
        return tuple(sorted(self.special[n] for n in STOP_NAMES if n in self.special))

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Encode a text: text -> ids. Names of control tokens are plain text unless `control`."""
        allowed: Any = "all" if control else set()
        ids: list[int] = []
        for piece in _pieces(text):
            ids += self._encoding.encode(piece, allowed_special=allowed, disallowed_special=())
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Decode to bytes, which may end inside a character: ids -> bytes."""
        return b"".join(self.token_bytes(number) for number in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Decode to text, with U+FFFD where the bytes are no UTF-8: ids -> text."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self, number: int) -> bytes:
        """Look one token up: id -> bytes."""
        try:
            return self._encoding.decode_single_token_bytes(number)
        except (KeyError, OverflowError):
            last = len(self) - 1
            raise InputError(f"id {number} is not of this vocabulary, 0 to {last}") from None


class StreamDecoder:
    """Ids to text, one at a time. Bytes of an unfinished character wait for the next id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, number: int) -> tuple[str, str]:
        """Decode an id: id -> the text that is whole by now, and a control token's name or ""."""
        if name := self._tokenizer.names.get(number):
            return self.flush(), name
        return self._decoder.decode(self._tokenizer.token_bytes(number)), ""

    def flush(self) -> str:
        """Give up waiting: -> U+FFFD for an unfinished character, or ""."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _CUT):
        part = text[start : start + _CUT]
        if len(part) <= 25_000:  # the usual case: no run can be longer
            yield part
        else:
            yield from _cut_runs(part)


def _cut_runs(part: str) -> Iterator[str]:
    """Cut where a run of spaces or of other characters grows beyond 25,000: text -> texts."""
    start, was_space = 0, None
    for run in _RUN.finditer(part):
        is_space = run.group()[0].isspace()
        if is_space is was_space:
            yield part[start : run.start()]
            start = run.start()
        was_space = is_space
    yield part[start:]


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read the tokenizer of a checkpoint: folder -> Tokenizer.

    Raises:
        InputError: a file is missing or broken, or the vocabulary is of another family.
    """
    folder = Path(folder)
    for name in (RANKS_FILE, NAMES_FILE):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} has no {name}; a Kimi tokenizer is {RANKS_FILE} with {NAMES_FILE}"
            )
    ranks = _read_ranks(folder / RANKS_FILE)
    return Tokenizer(ranks, _special(_read_names(folder / NAMES_FILE), len(ranks)))


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise InputError(
                f"{path}, line {number}: wanted a base64 token and its rank, got {line[:40]!r}"
            ) from None
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise InputError(f"{path}: the ranks must be 0, 1, 2 … of at least the 256 bytes")
    return ranks


def _read_names(path: Path) -> dict[int, str]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {int(k): str(v["content"]) for k, v in table["added_tokens_decoder"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path}: wanted JSON with added_tokens_decoder, a table of ids with their content"
        ) from None


def _special(named: dict[int, str], base: int) -> dict[str, int]:
    """Name all reserved ids: names by id, number of ranks -> ids by name."""
    names = set(named.values())
    if names & _K3_NAMES:
        raise InputError("these are the control tokens of Kimi K3, whose chat format is another")
    if missing := [name for name in TURN_NAMES if name not in names]:
        raise InputError(f"the tokenizer lacks {', '.join(missing)}; it is not of the K2 family")
    outside = [n for n in named if not base <= n < base + RESERVED]
    if outside or len(names) < len(named):
        raise InputError(
            f"control tokens need different names and ids {base} to {base + RESERVED - 1}, "
            f"got {outside or 'a name twice'}"
        )
    ids = range(base, base + RESERVED)
    return {named.get(n, f"<|reserved_token_{n}|>"): n for n in ids}
