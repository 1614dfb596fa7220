"""Bytes and text: which encoding, which line endings, and back without changing a byte."""

import codecs
from typing import NamedTuple

from k2tools.results import ToolError

SNIFFED_BYTES = 8_192
BOMS = (  # the longer first: a UTF-32 mark begins like a UTF-16 one
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Text(NamedTuple):
    """A text with what it takes to write it back."""

    text: str  # line endings as in the file
    encoding: str
    bom: bytes

    def encoded(self, text: str) -> bytes:
        """Encode a changed text as the file was; raises ToolError for what it cannot hold."""
        try:
            return self.bom + text.encode(self.encoding)
        except UnicodeEncodeError as error:
            wrong = error.object[error.start : error.end][:10]
            raise ToolError(
                f"{wrong!r} cannot be written in {self.encoding}, the file's encoding; "
                "use other characters, or write_file to replace the file in UTF-8"
            ) from None

    def described(self) -> str:
        """Name what is unusual: "" for UTF-8 with LF, else like " · cp1252 · CRLF"."""
        mark = " with BOM" if self.bom else ""
        encoding = f" · {self.encoding}{mark}" if self.bom or self.encoding != "utf-8" else ""
        ending = {"\n": "", "\r\n": " · CRLF", "\r": " · CR"}[dominant_ending(self.text)]
        return encoding + ending


def decoded(data: bytes, *, fallback: str, name: str) -> Text:
    """Decode a file: by its mark, else UTF-8, else the operator's fallback; refuse binary."""
    for mark, encoding in BOMS:
        if data.startswith(mark):
            try:
                return Text(data[len(mark) :].decode(encoding), encoding, mark)
            except UnicodeDecodeError:
                break
    if b"\0" in data[:SNIFFED_BYTES] or data.startswith(b"%PDF-"):
        raise ToolError(f"{name} is binary ({kind(data)}, {len(data)} bytes); {way_out(data)}")
    for encoding in ("utf-8", fallback, "latin-1"):  # latin-1 takes any byte
        try:
            return Text(data.decode(encoding), encoding, b"")
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes every byte")


MAGIC = (
    (b"%PDF-", "PDF"),
    (b"\x89PNG", "PNG image"),
    (b"\xff\xd8\xff", "JPEG image"),
    (b"PK\x03\x04", "ZIP archive or office document"),
    (b"\x1f\x8b", "gzip"),
    (b"SQLite format 3\0", "SQLite database"),
    (b"\x7fELF", "program"),
)


def kind(data: bytes) -> str:
    """Name a binary by its first bytes."""
    return next((name for magic, name in MAGIC if data.startswith(magic)), "unknown kind")


def way_out(data: bytes) -> str:
    return "open shows its text" if data.startswith(b"%PDF-") else "read it in python"


def dominant_ending(text: str) -> str:
    """Find the commonest line ending; LF when there is none."""
    crlf = text.count("\r\n")
    counts = {"\n": text.count("\n") - crlf, "\r\n": crlf, "\r": text.count("\r") - crlf}
    best = max(counts, key=lambda ending: counts[ending])  # the first of equals
    return best if counts[best] else "\n"


def lines_of(text: str) -> list[str]:
    """Split into lines without their endings; a final ending adds no empty line.

    Only LF, CRLF and (where nothing else is used) CR end a line, so numbers agree everywhere.
    """
    if dominant_ending(text) == "\r":
        text = text.replace("\r", "\n")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def with_endings(text: str) -> list[str]:
    """Split into the same lines, each with its ending."""
    end = "\r" if dominant_ending(text) == "\r" else "\n"
    lines = [line + end for line in text.split(end)]
    lines[-1] = lines[-1].removesuffix(end)
    return lines if lines[-1] else lines[:-1]
