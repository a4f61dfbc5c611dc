"""A results' folder written by hand: networks A and B, three seeds, figures that can be checked by eye."""

import numpy as np

from qadv.benchmark.cells import Finished
from qadv.benchmark.store import Store

IMAGES = 200
STUDY = {
    "title": "hand",
    "datasets": ["digits"],
    "seeds": [0, 1, 2],
    "backbones": {"mnist-cnn": {}},
    "defenses": {"A": {}, "B": {}, "C": {}},
    "attacks": {
        "fgsm": {"attack": "FastGradientMethod"},
        "few": {"attack": "FastGradientMethod", "nb_test": 100},
        "moved": {"attack": "FastGradientMethod", "source": "each"},
        "from A": {"attack": "FastGradientMethod", "source": {"defense": "A"}},
    },
    "measures": {"audit": {}, "of all": {"diagnostic": "gradient-similarity"}},
}
# by network: how many of the first images are right, by seed; C: of one seed only
RIGHT = {
    ("A", "clean"): (180, 182, 184),
    ("B", "clean"): (180, 184, 182),
    ("C", "clean"): (0, 0, 0),
    ("A", "fgsm"): (100, 102, 104),
    ("B", "fgsm"): (60, 64, 62),
    ("A", "few"): (90, 91, 92),
    ("B", "few"): (30, 32, 31),
    ("C", "fgsm"): (0, None, None),
}
MOVED = {("A", "B"): (40, 40, 40), ("B", "A"): (20, 20, 20)}  # on → to


def first(count, images=IMAGES):
    return (np.arange(images) < count).tolist()


def write_results(folder):
    """Writes the results to a folder; returns its `Store`."""
    store, cells = Store(folder), []

    def add(kind, record, needs=(), **place):
        key = f"{len(cells):032x}"
        place = {"dataset": "digits", "backbone": "mnist-cnn", "quantizer": "float", **place}
        cells.append({"key": key, "kind": kind, "label": f"{kind} {key[-2:]}", "place": place, "needs": list(needs)})
        if record is not None:
            store.write(key, Finished({"cell_seconds": 36.0, **record}, {"f.bin": key.encode() * 32}))
        return key

    def outcome(right):
        images = len(right)
        many = {"clean_right": [True] * images, "l2": [0.5] * images, "linf": [0.1] * images, "seconds": 2.0}
        return {"accuracy": np.mean(right).item(), "clean_accuracy": 1.0, "right": right, **many}

    with store.locked():
        networks = {}
        for defense in "ABC":
            for seed in range(3):
                made = {"spec": {"input_shape": [1, 8, 8]}, "seconds": 10.0 + seed + 10 * (defense == "B")}
                networks[defense, seed] = add("network", made, defense=defense, seed=seed)
        for (defense, attack), counts in RIGHT.items():
            for seed, count in enumerate(counts):
                needs = [networks[defense, seed]]
                right = None if count is None else first(count, 100 if attack == "few" else IMAGES)
                if attack == "clean":
                    record = {"accuracy": np.mean(right).item(), "right": right}
                    add("clean", record, needs, defense=defense, seed=seed)
                    continue
                record = None if right is None else outcome(right)
                for name in (attack, "moved") if attack == "fgsm" else (attack,):
                    add("attack", record, needs, defense=defense, seed=seed, attack=name, source=None)
        for (source, target), counts in MOVED.items():
            for seed, count in enumerate(counts):
                place = {"dataset": "digits", "backbone": "mnist-cnn", "quantizer": "float", "defense": source}
                names = ("moved", "from A") if source == "A" else ("moved",)
                for name in names:
                    record = outcome(first(count))
                    add("transfer", record, (), defense=target, seed=seed, attack=name, source={**place, "seed": seed})
        for defense in "AB":
            for seed in range(3):
                result = {"distance": [0.1, 0.5 + seed / 100], "robust": first(50), "none": None, "text": "x"}
                record = {"result": result, "text": ""}
                add("measure", record, (), defense=defense, seed=seed, measure="audit")
        add("measure", {"result": {"similarity": 0.5}, "text": ""}, (), seed=0, measure="of all")
        store.write_plan("hand-small", {"study": STUDY, "small": True, "cells": cells})
    return store
