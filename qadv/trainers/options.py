"""The settings of the training loop, the same for every trainer."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from qadv.checks import check_choice, check_fields, check_flag, check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.estimators.identity import told
from qadv.trainers.augment import AUGMENTATIONS

Schedule = str | Mapping[int, float] | Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How to train.

    Args:
        lr: learning rate of the SGD that is made when the classifier has no optimizer.
        momentum: of that SGD.
        weight_decay: of that SGD, on all parameters but those that have a penalty of their own, as PACT's α.
        lr_schedule: factor on the learning rate by progress: `"constant"`, `"cosine"` (per step, down to 0), `"step"`
            (×0.2 at 30, 60 and 80 % of the epochs: DQ's 60/120/160 of 200), `"one-cycle"` (per step, from 1/25 up over
            30 % of the run and down to 0, by cosines, as torch's `OneCycleLR`: for short trainings), a mapping
            {epoch: factor} (×factor from that epoch on, counted from 0), or a function from progress in [0, 1) to the
            factor.
        augment: `None` or `"none"`, `"crop-flip"` (pad by 4 with the smallest pixel value, random crop, random
            horizontal flip), or a function of a batch (N, C, H, W) on the device, in pixel values, that returns one
            like it; it draws from torch's global generator.
        seed: decides shuffling, augmentation and dropout; the global random states are afterwards as before.
        amp: bfloat16 autocast.
        compile: `torch.compile` the network; a string names the backend.
        channels_last: store images and weights channels-last.
        checkpoint: file that is written after each epoch; if it exists, training resumes from it, to the bit.
        start: what tells the weights at the start from others: the checkpoint of a run from others is refused.
        verbose: show progress.
    """

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    lr_schedule: Schedule = "cosine"
    augment: str | Callable[[Tensor], Tensor] | None = None
    seed: int = 0
    amp: bool = False
    compile: bool | str = False
    channels_last: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    start: str = ""
    verbose: bool = True

    def __post_init__(self) -> None:
        check_fields(self, check_number, "lr")
        check_fields(self, check_number, "momentum", zero=True, below=1)
        check_fields(self, check_number, "weight_decay", zero=True)
        check_fields(self, check_whole, "seed", least=0)
        check_fields(self, check_flag, "amp", "channels_last", "verbose")
        if not isinstance(self.compile, str):
            check_fields(self, check_flag, "compile")
        if not (self.checkpoint is None or isinstance(self.checkpoint, str | os.PathLike)):
            raise InvalidInputError(f"checkpoint: expected a path or None, got {self.checkpoint!r}")
        if isinstance(self.lr_schedule, str):
            check_choice("lr_schedule", self.lr_schedule, _SCHEDULES)
        elif not (isinstance(self.lr_schedule, Mapping) or callable(self.lr_schedule)):
            raise InvalidInputError(f"lr_schedule: expected a name, a mapping or a function, got {self.lr_schedule!r}")
        if isinstance(self.augment, str):
            check_choice("augment", self.augment, AUGMENTATIONS)
        elif not (self.augment is None or callable(self.augment)):
            raise InvalidInputError(f"augment: expected None, a name or a function, got {self.augment!r}")

    def lr_factor(self, step: int, steps_per_epoch: int, nb_epochs: int) -> float:
        """Returns the factor on the learning rate at a step, counted from 0 over the whole run."""
        epoch = step // steps_per_epoch
        if isinstance(self.lr_schedule, Mapping):
            return math.prod(factor for start, factor in self.lr_schedule.items() if epoch >= start)
        schedule = _SCHEDULES[self.lr_schedule] if isinstance(self.lr_schedule, str) else self.lr_schedule
        return float(schedule(step / (steps_per_epoch * nb_epochs)))

    def augmentation(self, black: float) -> Callable[[Tensor], Tensor] | None:
        """Returns the augmentation as a function of a batch; `black` is the smallest pixel value."""
        if isinstance(self.augment, str):
            return partial(AUGMENTATIONS[self.augment], black=black)
        return self.augment

    def describe(self) -> dict[str, Any]:
        """Returns what determines the result, as plain data for JSON."""
        names = ("lr", "momentum", "weight_decay", "lr_schedule", "augment", "seed", "amp", "channels_last")
        start = {"start": self.start} if self.start else {}
        return {name: told(getattr(self, name)) for name in names} | start


def _one_cycle(progress: float, rise: float = 0.3, first: float = 1 / 25) -> float:
    if progress < rise:
        return 1 - (1 - first) * _cosine(progress / rise)
    return _cosine((progress - rise) / (1 - rise))


def _cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "step": lambda progress: 0.2 ** sum(progress >= milestone for milestone in (0.3, 0.6, 0.8)),
}
