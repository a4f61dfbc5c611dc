"""Data sets in .npz files."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from qadv.datasets import mnist

from .damage import damaged_bytes
from .trials import Trial


def datasets(folder: Path) -> Trial:
    """MNIST of five images: damaged archives, and whole ones with other arrays than there should be."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": draw.integers(0, 256, (3, 28, 28), dtype=np.uint8)[:, None],
        "y_train": np.arange(3),
        "x_test": draw.integers(0, 256, (2, 28, 28), dtype=np.uint8)[:, None],
        "y_test": np.arange(2),
    }
    path = folder / "mnist.npz"
    contents = []
    for write in (np.savez, np.savez_compressed):
        write(path, **arrays)
        contents.append(path.read_bytes())
    expected = mnist(folder).digest()

    def trial(draws: random.Random) -> str:
        if draws.random() < 0.7:
            path.write_bytes(damaged_bytes(draws.choice(contents), draws))
            return "same" if mnist(folder).digest() == expected else "taken wrong"
        changed: dict[str, Any] = dict(arrays)
        name = draws.choice(list(arrays))
        way = draws.randrange(4)
        if way == 0:
            changed["extra"] = draws.choice([np.zeros(10), np.array([object()], dtype=object), np.array("text")])
        elif way == 1:
            del changed[name]
        elif way == 2:
            changed[name] = arrays[name].astype(draws.choice(["f4", "i1", "c8", "U3", "O", "M8[s]", "?"]))
        else:
            changed[name] = arrays[name][draws.choice([slice(1), slice(0), (slice(None), None), 0])]
        np.savez(path, **changed)
        return "same" if mnist(folder).digest() == expected else "taken wrong"

    return trial
