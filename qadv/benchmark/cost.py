"""Estimates roughly how long cells take: number of passes × the time of one, on one thread of this machine."""

import json
import timeit
from collections.abc import Mapping
from functools import cache
from math import prod
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qadv.backbones.create import create_backbone
from qadv.benchmark.cells import Cell
from qadv.benchmark.network_cells import opened_file
from qadv.benchmark.signatures import arguments, default_of
from qadv.benchmark.specs import AttackCellSpec, CleanSpec, MeasureSpec, NetworkSpec, TransferSpec
from qadv.benchmark.study import AttackSpec, StudyQuantizer
from qadv.errors import InvalidInputError, QadvError
from qadv.modes import torch_threads
from qadv.random_states import seeded
from qadv.registry import load

_FORWARD = 0.4  # of a forward and backward pass
_DISTANCES = 8.0  # that feedback learning tries along a direction
_AUDIT = {False: 1500.0, True: 60000.0}
_REPEATS = (
    "max_iter", "num_random_init", "nb_random_init", "nb_restarts", "binary_search_steps", "nb_samples", "nb_parallel",
)  # fmt: skip
_ONCE = {"FastGradientMethod": 1.0, "r-fgsm": 1.0, "uniform-noise": 0.0, "gaussian-noise": 0.0}


class Estimate:
    """Estimates the seconds that the cells of a study take."""

    def __init__(self, cells: list[Cell], data_dir: Path | None = None) -> None:
        self.specs: dict[str, Any] = {cell.key: cell.spec for cell in cells}
        self.data_dir = data_dir
        self.files: dict[str, float] = {}

    def seconds(self, cell: Cell) -> float:
        """Returns the estimate for one cell; it may be several times too low or too high."""
        match cell.spec:
            case NetworkSpec() as spec:
                return self._of(cell.key) * (_training(spec) + _calibration(spec.quantizer))
            case TransferSpec() as spec:
                made: AttackCellSpec = self.specs[spec.made]
                return self._of(spec.network) * _FORWARD * 2 * made.images.nb_test
            case AttackCellSpec() as spec:
                return self._of(spec.network) * spec.images.nb_test * (1 + _passes(spec.attack))
            case CleanSpec() as spec:
                return self._of(spec.network) * _FORWARD * spec.images.nb_test
            case MeasureSpec() as spec:
                return sum(map(self._of, spec.networks.values())) * spec.images.nb_test * _measure(spec)
        raise TypeError(cell.kind)

    def _of(self, network: str) -> float:
        """Returns the seconds of one image's forward and backward pass."""
        spec: NetworkSpec = self.specs[network]
        if spec.members:
            return sum(map(self._of, spec.members))
        if spec.backbone.file is not None:
            if network not in self.files:
                self.files[network] = _seconds_of_a_file((self.data_dir or Path()) / spec.backbone.file[0], spec)
            return self.files[network]
        quantized = 1.0 if spec.quantizer.weights == spec.quantizer.activations == "float" else 1.2
        options = json.dumps(spec.backbone.options, sort_keys=True)  # as text, so that it can be a key
        return quantized * _seconds_of_a_pass(spec.backbone.backbone, spec.input_shape, spec.nb_classes, options)


def _training(spec: NetworkSpec) -> float:
    defense = spec.defense
    if defense.trainer is None or defense.fit is None:
        return 200.0
    images = spec.nb_train
    searched = 0.0
    if defense.trainer == "feedback":
        searched, found = _searched(spec, defense.options)
        images += found
    return searched + defense.fit.nb_epochs * images * (1.3 + _extra(defense.trainer, defense.options))


def _calibration(quantizer: StudyQuantizer) -> float:
    if (used := quantizer.calibration_attack) is None:
        return 0.0
    return quantizer.calibration * _passes(AttackSpec(attack=used.name, options=used.options))


def _searched(spec: NetworkSpec, options: Mapping[str, Any]) -> tuple[float, int]:
    """Returns the passes that feedback learning searches its images with, and how many it finds in a round."""
    trainer = load("trainer", "feedback")
    names = "rounds", "nb_directions", "nb_nearest", "samples_per_class", "robust_share", "weak_share"
    rounds, tried, nearest, samples, robust, weak = (options.get(name, default_of(trainer, name, 0)) for name in names)
    shares = robust, 1 - robust - weak, weak
    searched = spec.nb_classes * sum(map(mul, samples, shares))
    return rounds * searched * tried * _DISTANCES * _FORWARD, round(searched * nearest)


def _measure(spec: MeasureSpec) -> float:
    if spec.diagnostic == "audit":
        return _AUDIT[bool(spec.options.get("thorough", False))]
    strengths = len(spec.options["eps"]) if isinstance(spec.options.get("eps"), list) else 1
    attacks = [*spec.attacks.values(), *([spec.attack] if spec.attack and not spec.adversarial else [])]
    return 2.0 + strengths * sum(map(_passes, attacks), 20.0 if strengths > 1 else 0.0)


@cache
def _seconds_of_a_pass(name: str, shape: tuple[int, ...], nb_classes: int, options: str) -> float:
    with torch_threads(1):
        given = json.loads(options)
        x = torch.zeros((8, *shape), requires_grad=True)
        try:
            with seeded(0):
                model = create_backbone(name, nb_classes=nb_classes, in_channels=shape[0], **given).eval()
            model(x).sum().backward()
        except QadvError:
            raise
        except Exception as error:
            takes = [option for option in arguments(load("backbone", name)) or () if "size" in option]
            hint = f"; it has the option{'s' * (len(takes) > 1)} {', '.join(takes)}" if takes else ""
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise InvalidInputError(
                f"{name} with options {given} does not take images of shape {shape} ({why}){hint}"
            ) from error
        return min(timeit.repeat(lambda: model(x).sum().backward(), repeat=2, number=1)) / len(x)


def _seconds_of_a_file(path: Path, spec: NetworkSpec) -> float:
    classifier = opened_file(path, spec)
    x, y = np.random.default_rng(0).random((8, *spec.input_shape), dtype=np.float32), np.zeros(8, dtype=int)
    with torch_threads(1):
        return min(timeit.repeat(lambda: classifier.loss_gradient(x, y), repeat=2, number=1)) / len(x)


def _extra(trainer: str, options: Mapping[str, Any]) -> float:
    """Returns the forward and backward passes per image besides the step itself."""
    if trainer == "eq":
        return float(options.get("max_iter", 10)) + 1
    adversary = options if trainer == "adversarial" else options.get("adversary")
    if adversary is None:
        return 0.0
    said = {"attack": adversary} if isinstance(adversary, str) else adversary
    return float(said.get("max_iter") or 10) if said.get("attack", "pgd") == "pgd" else 1.0


def _passes(spec: AttackSpec) -> float:
    """Returns an attack's forward and backward passes per image: the product of its arguments that repeat work."""
    if spec.attack in _ONCE:
        return _ONCE[spec.attack]
    target = load("attack", spec.attack)
    values = [spec.options.get(name, default_of(target, name, 1)) for name in _REPEATS]
    return float(prod(max(1, value) for value in values if isinstance(value, int | np.integer)))
