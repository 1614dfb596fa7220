"""Pictures and tables become files in the workspace, named in the text with what they show."""

import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

WORKSPACE = os.getcwd()
FOLDER = "outputs"


def save(kind: str, suffix: str, write: Callable[[BinaryIO], Any]) -> str:
    """Write the next free file of a kind: kind, suffix, writer -> its path, or why not."""
    folder = os.path.join(WORKSPACE, FOLDER)
    try:
        os.makedirs(folder, exist_ok=True)
        number = 1
        while os.path.lexists(os.path.join(folder, f"{kind}_{number}.{suffix}")):
            number += 1
        path = f"{FOLDER}/{kind}_{number}.{suffix}"
        with open(os.path.join(WORKSPACE, path), "xb") as file:
            write(file)
    except OSError as error:
        return f"not saved: {error.strerror}"
    return path


def save_bytes(kind: str, suffix: str, data: str | bytes) -> str:
    encoded = data.encode() if isinstance(data, str) else data
    return save(kind, suffix, lambda file: file.write(encoded))


def save_open() -> None:
    """Save, name and close the figures that pyplot holds; does nothing without pyplot."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        print(saved(figure))
        pyplot.close(figure)


def saved(figure: Any) -> str:
    """Save a matplotlib figure: figure -> "[figure PATH: what it shows]"."""
    # without the library's version in it, the same figure gives the same bytes
    path = save(
        "figure", "png", lambda f: figure.savefig(f, format="png", metadata={"Software": None})
    )
    return f"[figure: {path}{''.join(map(described, figure.axes))}]"


def described(axes: Any) -> str:
    """Say what a reader would see on the axes of a figure."""
    counts = {
        "lines": len(axes.lines),
        "collections": len(axes.collections),
        "patches": len(axes.patches),
        "images": len(axes.images),
    }
    words = [repr(axes.get_title())] if axes.get_title() else []
    words += [f"{n} {kind}" for kind, n in counts.items() if n]
    words += [
        f"{a} {label!r}"
        for a, label in (("x", axes.get_xlabel()), ("y", axes.get_ylabel()))
        if label
    ]
    return "; " + ", ".join(words) if words else ""


def saved_picture(value: Any) -> str:
    """Save a value that can draw itself: value -> "[picture: PATH]", or "" for any other."""
    matplotlib = sys.modules.get("matplotlib.figure")
    if matplotlib is not None and isinstance(value, matplotlib.Figure):
        text = saved(value)
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(value)  # once is enough
        return text
    for suffix in ("png", "svg"):
        draw = getattr(type(value), f"_repr_{suffix}_", None)
        picture = draw(value) if draw is not None else None
        if picture:
            return f"[picture: {save_bytes('picture', suffix, picture)}]"
    return ""
