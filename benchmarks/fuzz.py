"""What qadv says to damaged input: many random trials of each kind, and a count of how they ended.

    python benchmarks/fuzz.py [--kind NAME …] [--trials 2000] [--seed 0]

Each trial damages something in its own way and gives it to qadv. "refused" (or computed again) and "same" are right,
and so is "as written": the file is sound and says something else. "taken wrong" is a result of something else than was
written, "traceback" an error that qadv did not foresee; with one of them the status is 1, and the first are shown with
the numbers of their trials. A trial depends on the seed and its number alone: `--first 17 --trials 1` repeats it.

The kinds `inputs`, `plugins` and `threads` are calls, of which those that are sound have to give what they give in the
usual form, alone. The kinds `kills` (a bench with `--jobs 2` is killed) and `memory` take seconds for a trial, so they
have 20 and 12.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from fuzzing.kinds import KINDS, SLOW
from fuzzing.trials import OUTCOMES, run_trials
from rich.console import Console
from rich.table import Table

from qadv.errors import closest


def main(
    kind: Annotated[list[str] | None, typer.Option(help=f"one of {', '.join(KINDS)}; all without it")] = None,
    trials: Annotated[int, typer.Option(help="of each kind; at most 20 kills and 12 of memory")] = 2000,
    seed: Annotated[int, typer.Option(help="decides every trial")] = 0,
    first: Annotated[int, typer.Option(help="number of the first trial")] = 0,
) -> None:
    """Runs the trials and prints their outcomes."""
    for name in kind or ():
        if name not in KINDS:
            raise typer.BadParameter(f"no kind {name!r}{closest(name, KINDS)} There are: {', '.join(KINDS)}")
    console, bad = Console(soft_wrap=True, highlight=False), 0
    table = Table("kind", "trials", *OUTCOMES, title=f"seed {seed}")
    for name in kind or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found = run_trials(name, KINDS[name], min(trials, SLOW.get(name, trials)), seed, Path(folder), first)
        table.add_row(name, str(sum(found.counts.values())), *(str(found.counts[each]) for each in OUTCOMES))
        bad += found.counts["taken wrong"] + found.counts["traceback"]
        for line in found.faults:
            console.print(f"{name}: {line}", markup=False)
    console.print(table)
    sys.exit(bad > 0)


if __name__ == "__main__":
    typer.run(main)
