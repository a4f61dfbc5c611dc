"""Computes a cell from its spec and the results it needs: a function of these alone, on any machine."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qadv.benchmark.attack_cells import attack_cell, clean_cell, transfer_cell
from qadv.benchmark.cells import Finished
from qadv.benchmark.given import Given
from qadv.benchmark.measure_cells import measure_cell
from qadv.benchmark.network_cells import network_cell
from qadv.benchmark.specs import Spec
from qadv.modes import torch_threads
from qadv.random_states import seeded

_KINDS: dict[str, Callable[..., Finished]] = {
    "network": network_cell,
    "clean": clean_cell,
    "attack": attack_cell,
    "transfer": transfer_cell,
    "measure": measure_cell,
}


def compute(spec: Spec, needed: Mapping[str, Finished], given: Given, threads: int = 1) -> Finished:
    """Computes one cell from its spec, the results that it needs by their keys, and what this machine has."""
    with torch_threads(threads), seeded(spec.seed):
        result = _KINDS[spec.kind](spec, needed, given)
    return Finished({"spec": plain(spec), **plain(result.record)}, result.files)


def plain(value: Any) -> Any:
    """Returns a value as plain data for JSON, NaN and infinities as `None`."""
    if isinstance(value, Spec):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    try:
        json.dumps(value)
    except TypeError:
        return str(value)
    return value
