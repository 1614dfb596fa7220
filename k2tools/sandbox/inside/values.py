"""How a value reads: like the prompt of an interpreter, bounded, without memory addresses."""

import itertools
import pprint
import re
import reprlib
import sys
from typing import Any

from . import figures

MAX_CHARS = 200_000
MAX_ITEMS = 1_000  # of a container
LINE_CHARS = 100
PRETTY_CHARS = 20_000  # beyond it, laying a container out costs more than it helps
ROWS, COLUMNS, TABLE_CHARS = 60, 20, 160
MAX_SAVED_CELLS = 2_000_000


class Bounded(reprlib.Repr):
    """The standard library's, but dictionaries keep their order."""

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        if level <= 0 and value:
            return "{...}"
        pairs = itertools.islice(value.items(), self.maxdict)
        pieces = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in pairs]
        pieces += ["..."] if len(value) > self.maxdict else []
        return f"{{{', '.join(pieces)}}}"


_repr = Bounded()
_repr.maxlevel = 20
_repr.maxlist = _repr.maxtuple = _repr.maxdict = _repr.maxset = MAX_ITEMS
_repr.maxfrozenset = _repr.maxdeque = _repr.maxarray = MAX_ITEMS
_repr.maxstring = _repr.maxlong = _repr.maxother = MAX_CHARS


def display(*values: Any) -> None:
    """Show values in the middle of a cell, as a notebook does."""
    for value in values:
        print(shown(value))


def shown(value: Any) -> str:
    """Write a value as text; pictures and long tables become files that the text names."""
    text = figures.saved_picture(value) or table(value) or plain(value)
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}… [+{len(text) - MAX_CHARS}]"


def plain(value: Any) -> str:
    """Write anything by its repr; containers over a line are laid out."""
    text = _repr.repr(value) if isinstance(value, list | tuple | dict | set) else repr(value)
    if LINE_CHARS < len(text) <= PRETTY_CHARS and isinstance(value, list | tuple | dict | set):
        laid_out = pprint.pformat(value, width=LINE_CHARS, compact=True, sort_dicts=False)
        text = laid_out if len(laid_out) < 2 * len(text) else text
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def table(value: Any) -> str:
    """Write a DataFrame or Series; one that is not shown whole is saved as CSV."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, pandas.DataFrame | pandas.Series):
        return ""
    options = {"max_rows": ROWS, "max_columns": COLUMNS, "width": TABLE_CHARS}
    pairs = [part for name, size in options.items() for part in (f"display.{name}", size)]
    with pandas.option_context(*pairs):
        text = repr(value)
    whole = len(value) <= ROWS and (value.ndim == 1 or value.shape[1] <= COLUMNS)
    if whole or value.size > MAX_SAVED_CELLS:
        return text
    path = figures.save("table", "csv", lambda file: value.to_csv(file))
    return f"{text}\n[table: {path}]"
