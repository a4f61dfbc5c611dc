"""Runs trials and counts their outcomes."""

import random
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qadv.errors import QadvError

OUTCOMES = ("refused", "same", "as written", "taken wrong", "traceback")
_SHOWN = 5

Trial = Callable[[random.Random], str]
"""Damages something, uses it, and returns an outcome; a `QadvError` that it raises means "refused"."""

Kind = Callable[[Path], Trial]
"""Makes what is to be damaged, in a folder of its own, and returns the trial."""


@dataclass
class Found:
    """How many trials had which outcome, and what the first bad ones were."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def run_trials(name: str, kind: Kind, trials: int, seed: int, folder: Path, first: int = 0) -> Found:
    """Runs trials of one kind; each depends on the seed and its number alone."""
    found = Found()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files of format 1 say so
        trial = kind(folder)
        for number in range(first, first + trials):
            outcome, what = _outcome(trial, random.Random(f"{seed} {name} {number}"))
            found.counts[outcome] += 1
            if outcome not in OUTCOMES[:3] and len(found.faults) < _SHOWN:
                found.faults.append(f"trial {number}: {outcome}{what}")
    return found


def _outcome(trial: Trial, draws: random.Random) -> tuple[str, str]:
    try:
        outcome = trial(draws)
        return outcome, ""
    except QadvError as error:
        return ("refused", "") if str(error).strip() else ("traceback", f" without a message: {type(error).__name__}")
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f" {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
