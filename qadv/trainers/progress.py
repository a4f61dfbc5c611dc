"""Progress of a training run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import nan

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qadv.console import Console
from qadv.versions import progress_bar


@contextmanager
def training_progress(
    name: str, nb_epochs: int, steps_per_epoch: int, epochs_done: int, verbose: bool
) -> Iterator[Callable[[int, float, float], None]]:
    """Shows a bar over all steps; yields a function of steps done, mean loss and accuracy of the epoch so far.

    Where nobody sees a bar move, in a log, it writes a line for each epoch.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        TextColumn("loss {task.fields[loss]:.3f} acc {task.fields[accuracy]:.1%}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console, started = Console(), time.perf_counter()
    with progress_bar(*columns, shown=verbose and epochs_done < nb_epochs and console.is_terminal) as progress:
        done, total, epoch = epochs_done * steps_per_epoch, nb_epochs * steps_per_epoch, min(epochs_done + 1, nb_epochs)
        task = progress.add_task(name, True, total, done, epoch=epoch, epochs=nb_epochs, loss=nan, accuracy=nan)

        def report(steps: int, loss: float, accuracy: float) -> None:
            epoch = (steps - 1) // steps_per_epoch + 1
            progress.update(task, completed=steps, epoch=epoch, loss=loss, accuracy=accuracy)
            if verbose and not console.is_terminal and steps == epoch * steps_per_epoch:
                left = (time.perf_counter() - started) / (steps - done) * (total - steps)
                line = f"{name}: epoch {epoch}/{nb_epochs}, loss {loss:.3f}, accuracy {accuracy:.1%}, {left:.0f} s left"
                console.print(line, soft_wrap=True, highlight=False)

        yield report
