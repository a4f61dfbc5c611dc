"""What a round of feedback learning finds: which classes are robust, and images beyond the nearest boundaries."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qadv.checks import check_fields, check_number, check_whole
from qadv.errors import AttackError, InvalidInputError, TrainingError
from qadv.estimators.oracle import open_oracle
from qadv.estimators.protocol import Classifier
from qadv.trainers.margins import margins, unit_directions
from qadv.trainers.parallel import Processes
from qadv.units import limits

_VALUES_AT_ONCE = 2**24  # of directions: 64 MiB, twice while they are drawn
_ORDER, _KAPPA, _DIRECTIONS = 1, 2, 3  # what random numbers are for


@dataclass(frozen=True, kw_only=True)
class FeedbackSettings:
    """The parameters of feedback learning; see `FeedbackTrainer`."""

    rounds: int
    nb_directions: int
    nb_nearest: int
    samples_per_class: tuple[int, int, int]
    robust_share: float
    weak_share: float
    kappa: tuple[float, float]
    ranking_samples: int
    max_distance: float
    tolerance: float
    batch_size: int

    def __post_init__(self) -> None:
        check_fields(self, check_whole, "rounds", "nb_directions", "nb_nearest", "ranking_samples")
        check_fields(self, check_whole, "batch_size", prefix="search_")
        if self.nb_nearest > self.nb_directions:
            raise InvalidInputError(
                f"nb_nearest: expected at most nb_directions={self.nb_directions}, got {self.nb_nearest}"
            )
        samples = self.samples_per_class
        if not isinstance(samples, tuple | list) or len(samples) != 3:
            raise InvalidInputError(
                f"samples_per_class: expected 3 numbers, for robust, middle and weak classes, got {samples!r}"
            )
        whole = tuple(check_whole("samples_per_class", number, least=0) for number in samples)
        object.__setattr__(self, "samples_per_class", whole)
        check_fields(self, check_number, "robust_share", "weak_share", zero=True, most=1)
        if self.robust_share + self.weak_share > 1 + 1e-9:
            raise InvalidInputError(
                f"robust_share and weak_share: expected at most 1 together, got {self.robust_share} and "
                f"{self.weak_share}"
            )
        if not isinstance(self.kappa, tuple | list) or len(self.kappa) != 2:
            raise InvalidInputError(f"kappa: expected two numbers, from and to, got {self.kappa!r}")
        object.__setattr__(self, "kappa", tuple(check_number("kappa", end) for end in self.kappa))
        if self.kappa[0] > self.kappa[1]:
            raise InvalidInputError(f"kappa: expected (from, to) with from <= to, got {self.kappa!r}")
        check_fields(self, check_number, "max_distance")
        check_fields(self, check_number, "tolerance", below=1, zero=True, least=1e-5)  # what float32 can tell apart

    def budgets(self, robustness: Sequence[float] | NDArray[np.float64]) -> NDArray[np.int64]:
        """Returns how many samples each class gets, (classes,), from how robust each is.

        **Reading:** shares are rounded to whole classes, halves upwards, the weak ones first; of equally robust classes
        the one with the smaller index counts as weaker.
        """
        robust, middle, weak = self.samples_per_class
        classes = len(robustness)
        nb_weak = min(classes, math.floor(self.weak_share * classes + 0.5))
        nb_robust = min(classes - nb_weak, math.floor(self.robust_share * classes + 0.5))
        ranked = np.argsort(np.asarray(robustness), kind="stable")
        budgets = np.full(classes, middle, dtype=np.int64)
        budgets[ranked[:nb_weak]] = weak
        budgets[ranked[classes - nb_robust :]] = robust
        return budgets

    def most_images(self, labels: NDArray[np.int64], classes: int) -> int:
        """Returns how many images a round can add at most, whichever classes turn out weak."""
        sizes = np.sort(np.bincount(labels, minlength=classes))
        budgets = np.sort(self.budgets(np.zeros(classes)))
        return self.nb_nearest * int(np.minimum(sizes, budgets).sum())


class Found(NamedTuple):
    """Steps beyond the boundary, (M,) each, and what the search saw.

    Attributes:
        sample: index of the training image that a step starts from, int64.
        direction: index of its direction among those that `unit_directions` draws for this image, int64.
        length: κ · margin, float32.
        report: for the history, plain data.
    """

    sample: Tensor
    direction: Tensor
    length: Tensor
    report: dict[str, Any]


@dataclass
class FeedbackSearch:
    """Searches margins of training images on a classifier as it is, with its preprocessing, in evaluation mode.

    Several processes share the images out among them, and all end with all of what is found. The images `x` may be on
    any device, their labels `y` are on the CPU; `seed` decides what is drawn in each round.
    """

    classifier: Classifier
    x: Tensor
    y: Tensor
    settings: FeedbackSettings
    seed: int
    processes: Processes = field(default_factory=Processes)
    queries: int = 0

    def find(self, round_: int) -> Found:
        """Ranks the classes and finds steps beyond the boundary."""
        settings, self.queries = self.settings, 0
        classes = self.classifier.nb_classes
        try:
            right = self._candidates(round_)
            probed = np.concatenate([own[: settings.ranking_samples] for own in right])
            probed_margins, probed_directions = self._nearest(probed, round_)
            smallest = np.fmin(probed_margins[:, 0].numpy(), settings.max_distance)
            labels = self.y.numpy()[probed]
            robustness = [float(smallest[labels == c].mean()) if (labels == c).any() else 0.0 for c in range(classes)]
            budgets = settings.budgets(robustness)
            rest = np.concatenate([own[settings.ranking_samples : n] for own, n in zip(right, budgets, strict=True)])
            rest_margins, rest_directions = self._nearest(rest, round_)
        except AttackError as error:
            raise TrainingError(f"round {round_}: no margins can be searched: {error}") from error

        chosen = np.isin(probed, np.concatenate([own[:n] for own, n in zip(right, budgets, strict=True)]))
        samples = torch.from_numpy(np.concatenate([probed[chosen], rest]))
        found = torch.cat([probed_margins[chosen], rest_margins])
        directions = torch.cat([probed_directions[chosen], rest_directions])
        kappa = self._random(round_, _KAPPA).uniform(*settings.kappa, found.shape).astype(np.float32)
        length = found * torch.from_numpy(kappa)
        reached = found.isfinite()
        report = {
            "class_margins": robustness,
            "samples": np.bincount(self.y.numpy()[samples.numpy()], minlength=classes).tolist(),
            "added_images": int(reached.sum()),
            "mean_margin": float(found[reached].mean()) if reached.any() else None,
            "mean_length": float(length[reached].mean()) if reached.any() else None,
            "queries": int(self.processes.sum(torch.tensor(self.queries, device=self.classifier.device))),
        }
        return Found(samples[:, None].expand_as(found)[reached], directions[reached], length[reached], report)

    def images(self, found: Found, round_: int) -> Iterator[Tensor]:
        """Yields the images that steps lead to, (m, *shape) on the CPU, in order and in parts."""
        samples, own = torch.unique_consecutive(found.sample, return_inverse=True)
        for start, stop in self._parts(len(samples)):
            rows = (own >= start) & (own < stop)
            directions = self._directions(samples[start:stop].numpy(), round_)
            steps = directions[own[rows] - start, found.direction[rows]]
            length = found.length[rows].view(-1, *[1] * (steps.ndim - 1))
            moved = self.x[found.sample[rows].to(self.x.device)].cpu() + length * steps
            yield moved.clamp(*limits(self.classifier.clip_values))

    def _candidates(self, round_: int) -> list[NDArray[np.int64]]:
        """Returns for each class the indices of its correctly classified images, in the order to be chosen."""
        labels, random = self.y.numpy(), self._random(round_, _ORDER)
        with open_oracle(self.classifier, self.settings.batch_size) as oracle:
            own = self.processes.share(len(labels)).of(self.x)
            parts = torch.split(own, self.settings.batch_size)
            classes = torch.cat([oracle.logits(part.to(oracle.device)).argmax(1) for part in parts])
        self.queries += len(own)
        predicted = self._of_all(classes, len(labels)).numpy()
        right = predicted == labels
        return [random.permutation(np.flatnonzero(right & (labels == c))) for c in range(self.classifier.nb_classes)]

    def _nearest(self, samples: NDArray[np.int64], round_: int) -> tuple[Tensor, Tensor]:
        """Returns the smallest margins of images, ascending, and their directions, (len(samples), nb_nearest) each."""
        settings = self.settings
        own = self.processes.share(len(samples)).of(torch.from_numpy(samples))
        empty = torch.empty(0, settings.nb_nearest)
        values, indices = [empty], [empty.long()]
        with open_oracle(self.classifier, settings.batch_size) as oracle:

            def predict_classes(images: Tensor) -> Tensor:
                self.queries += len(images)
                return oracle.logits(images).argmax(1)

            for start, stop in self._parts(len(own)):
                part = own[start:stop]
                found = margins(
                    predict_classes,
                    self.x[part.to(self.x.device)].to(oracle.device),
                    self.y[part].to(oracle.device),
                    self._directions(part.numpy(), round_).to(oracle.device),
                    settings.max_distance,
                    clip_values=limits(self.classifier.clip_values),
                    tolerance=settings.tolerance,
                    nearest=settings.nb_nearest,
                    batch_size=settings.batch_size,
                ).cpu()
                ascending = found.sort(dim=1, stable=True)
                values.append(ascending.values[:, : settings.nb_nearest])
                indices.append(ascending.indices[:, : settings.nb_nearest])
        return self._of_all(torch.cat(values), len(samples)), self._of_all(torch.cat(indices), len(samples))

    def _of_all(self, own: Tensor, size: int) -> Tensor:
        """Returns what all processes found, (size, …) on the CPU."""
        return self.processes.gather(own.to(self.classifier.device), size).cpu()

    def _parts(self, samples: int) -> list[tuple[int, int]]:
        """Returns (start, stop) of samples whose directions fit into memory at once."""
        size = max(1, _VALUES_AT_ONCE // (self.settings.nb_directions * self.x[0].numel()))
        return [(start, min(start + size, samples)) for start in range(0, samples, size)]

    def _directions(self, samples: NDArray[np.int64], round_: int) -> Tensor:
        seed = int(self._random(round_, _DIRECTIONS).integers(2**32))
        return unit_directions(seed, samples.tolist(), self.settings.nb_directions, self.x.shape[1:])

    def _random(self, round_: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, round_, purpose])
