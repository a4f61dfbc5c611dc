"""Random states and settings of the process, which a component has to leave as they are."""

import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qadv.process_state import RANDOM_STATE, VARIABLE, put_back, read_settings


def settings() -> dict[str, Any]:
    """Returns the settings of the process, by what reads them."""
    shared = {setting.name: value for setting, value in read_settings().items()}
    return {
        **{name: value for name, value in shared.items() if not name.startswith((RANDOM_STATE, VARIABLE))},
        "numpy.get_printoptions()": np.get_printoptions(),
        "warnings.filters": list(warnings.filters),
        "logging.getLogger().level": logging.getLogger().level,
        "os.environ": dict(os.environ),
        "sys.path": list(sys.path),
    }


def set_random_states(seed: int) -> None:
    """Seeds what numpy, Python and torch draw from."""
    np.random.seed(seed)
    random.seed(seed)
    torch.manual_seed(seed)


def from_seed(call: Callable[[], Any], seed: int = 0) -> Any:
    """Returns what a call gives after the global random states were seeded."""
    set_random_states(seed)
    return call()


def random_states() -> dict[str, Any]:
    """Returns the global random states, by the module that has them."""
    shared = {setting.name: value for setting, value in read_settings().items()}
    return {name.removeprefix(RANDOM_STATE): v for name, v in shared.items() if name.startswith(RANDOM_STATE)}


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Makes an empty folder the working directory, and goes back afterwards."""
    with tempfile.TemporaryDirectory() as name, chdir(name):
        yield Path(name)


@contextmanager
def settings_restored() -> Iterator[None]:
    """Restores what a component changed, so that one fault does not show up in every later check."""
    before, options, path, level = read_settings(), np.get_printoptions(), list(sys.path), logging.getLogger().level
    try:
        with warnings.catch_warnings():
            yield
    finally:
        put_back(before)
        np.set_printoptions(**options)
        sys.path[:] = path
        logging.getLogger().setLevel(level)
