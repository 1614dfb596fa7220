"""Frames on a pipe: four bytes of length, big-endian, then JSON."""

import json
import os
import struct
from typing import Any

MAX_FRAME_BYTES = 1 << 20


def encoded(message: dict[str, Any]) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes; the limit is {MAX_FRAME_BYTES}")
    return struct.pack(">I", len(body)) + body


def send(fd: int, message: dict[str, Any]) -> None:
    view = memoryview(encoded(message))
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> dict[str, Any]:
    """Read one frame, waiting for it. Raises EOFError when the other side is gone."""
    (size,) = struct.unpack(">I", _exactly(fd, 4))
    message: dict[str, Any] = json.loads(_exactly(fd, size))
    return message


def _exactly(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
