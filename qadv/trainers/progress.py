"""Progress of a training run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import nan

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qadv.versions import progress_bar


@contextmanager
def training_progress(
    name: str, nb_epochs: int, steps_per_epoch: int, epochs_done: int, verbose: bool
) -> Iterator[Callable[[int, float, float], None]]:
    """Shows a bar over all steps; yields a function of steps done, mean loss and accuracy of the epoch so far."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        TextColumn("loss {task.fields[loss]:.3f} acc {task.fields[accuracy]:.1%}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with progress_bar(*columns, shown=verbose and epochs_done < nb_epochs) as progress:
        done, total, epoch = epochs_done * steps_per_epoch, nb_epochs * steps_per_epoch, min(epochs_done + 1, nb_epochs)
        task = progress.add_task(name, True, total, done, epoch=epoch, epochs=nb_epochs, loss=nan, accuracy=nan)

        def report(steps: int, loss: float, accuracy: float) -> None:
            epoch = (steps - 1) // steps_per_epoch + 1
            progress.update(task, completed=steps, epoch=epoch, loss=loss, accuracy=accuracy)

        yield report
