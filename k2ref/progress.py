"""Progress bars on stderr, for people only: a pipe or a file sees nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from k2ref.config import Config
from k2ref.trace import Trace, tap_names


def bar() -> Progress:
    """Make a progress bar that stays silent unless a person watches: -> Progress."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )


@contextmanager
def layer_progress(config: Config) -> Iterator[Trace]:
    """Show how far a forward pass has come, tap by tap: config -> trace."""
    with bar() as progress:
        task = progress.add_task("forward", total=len(tap_names(config)))

        def advance(name: str, array: np.ndarray, /) -> None:
            progress.update(task, advance=1, description=name.split(".")[0])

        yield advance
