"""What a component shares with everything else in the process, and has to leave as it is."""

import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


def settings() -> dict[str, Any]:
    """Returns the settings of the process, by what reads them."""
    return {
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_default_device()": torch.get_default_device(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled(),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
        "torch.backends.cudnn.deterministic": torch.backends.cudnn.deterministic,
        "torch.backends.cudnn.benchmark": torch.backends.cudnn.benchmark,
        "numpy.geterr()": np.geterr(),
        "numpy.get_printoptions()": np.get_printoptions(),
        "warnings.filters": list(warnings.filters),
        "logging.getLogger().level": logging.getLogger().level,
        "os.getcwd()": os.getcwd(),
        "os.environ": dict(os.environ),
        "sys.path": list(sys.path),
    }


def set_random_states(seed: int) -> None:
    """Seeds what numpy, Python and torch draw from."""
    np.random.seed(seed)
    random.seed(seed)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """Returns the global random states, by the module that has them."""
    return {
        "numpy.random": np.random.get_state(legacy=False),
        "random": random.getstate(),
        "torch": torch.get_rng_state(),
    }


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Makes an empty folder the working directory, and goes back afterwards."""
    with tempfile.TemporaryDirectory() as name, chdir(name):
        yield Path(name)


@contextmanager
def settings_restored() -> Iterator[None]:
    """Mends what a component changed, so that one fault does not show up in every later check."""
    states, dtype, threads = random_states(), torch.get_default_dtype(), torch.get_num_threads()
    grad = torch.is_grad_enabled()
    errors, options, environment, path = np.geterr(), np.get_printoptions(), dict(os.environ), list(sys.path)
    level = logging.getLogger().level
    deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        with warnings.catch_warnings():
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        np.seterr(**errors)
        np.set_printoptions(**options)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.path[:] = path
        logging.getLogger().setLevel(level)
        np.random.set_state(states["numpy.random"])
        random.setstate(states["random"])
        torch.set_rng_state(states["torch"])
