"""Progress bars on stderr, for people only: a pipe or a file sees nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from k2ref.config import Config
from k2ref.streaming import Residency
from k2ref.trace import Trace, tap_names


def bar() -> Progress:
    """Make a progress bar that stays silent unless a person watches: -> Progress."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )


@contextmanager
def layer_progress(config: Config, residency: Residency) -> Iterator[Trace]:
    """Show how far a forward pass has come and how fast weights come: config -> trace."""
    began = time.monotonic()
    with bar() as progress:
        task = progress.add_task("forward", total=len(tap_names(config)))

        def advance(name: str, array: np.ndarray, /) -> None:
            rate = residency.asked_bytes / max(time.monotonic() - began, 1e-9) / 1e9
            progress.update(task, advance=1, description=f"{name.split('.')[0]} {rate:.1f} GB/s")

        yield advance
