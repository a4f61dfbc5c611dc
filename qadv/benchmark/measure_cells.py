"""Cells that measure: any diagnostic, given what the names of its arguments ask for."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from qadv.benchmark.attack_cells import adversarial_images, test_images
from qadv.benchmark.cells import Finished
from qadv.benchmark.given import Given
from qadv.benchmark.made_attacks import build_attack
from qadv.benchmark.network_cells import load_network, untrained
from qadv.benchmark.signatures import arguments
from qadv.benchmark.specs import MeasureSpec, NetworkSpec
from qadv.registry import load


def measure_cell(spec: MeasureSpec, needed: Mapping[str, Finished], given: Given) -> Finished:
    """Runs a diagnostic; the record has its `result` as plain data and as `text`.

    Its arguments are found by name, as docs/studies.md has them; the rest are options.
    """
    target = load("diagnostic", spec.diagnostic)
    taken = arguments(target) or set()
    networks = {label: load_network(needed[key]) for label, key in spec.networks.items()}
    x, y = test_images(given, spec.images)
    known: dict[str, Any] = {"x": x, "y": y, "seed": spec.seed, "verbose": False}
    known |= {"classifiers": networks} if spec.joint else {"classifier": next(iter(networks.values()))}
    if spec.adversarial is not None:
        made = adversarial_images(needed[spec.adversarial])
        count = min(len(made), len(x))
        known |= {"x_adversarial": made[:count], "x": (made if spec.attacked else x)[:count], "y": y[:count]}
    if spec.attack is not None:
        known["attack"] = partial(build_attack, spec.attack, spec.seed)
    if spec.attacks:
        known["attacks"] = {name: partial(build_attack, each, spec.seed) for name, each in spec.attacks.items()}
    if spec.float_parent is not None:
        known["float_parent"] = load_network(needed[spec.float_parent])
    first = NetworkSpec.model_validate(needed[next(iter(spec.networks.values()))].record["spec"])
    if "untrained" in taken:
        known["untrained"] = untrained(first)
    if "x_train" in taken:
        known["x_train"], known["y_train"] = given.images(spec.images).take("train", spec.nb_trained or first.nb_train)
    started = time.perf_counter()
    result = target(**{k: v for k, v in known.items() if k in taken}, **spec.options)
    return Finished({
        "seconds": time.perf_counter() - started,
        "result": result.to_dict() if hasattr(result, "to_dict") else result,
        "text": str(result),
    })  # fmt: skip
