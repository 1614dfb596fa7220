"""The matplotlib back end of a session: show() saves what is open and says where."""

from typing import Any

from k2_inside import figures  # type: ignore[import-not-found]
from matplotlib.backends.backend_agg import (  # type: ignore[import-not-found,unused-ignore]
    FigureCanvasAgg as FigureCanvas,
)

__all__ = ["FigureCanvas", "show"]


def show(*_: Any, **__: Any) -> None:
    """Stand in for pyplot.show."""
    figures.save_open()
