"""Accuracy under natural and systematic noise, which RobustMQ measures besides that under attack (docs/noise.md)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from qadv.checks import check_flag, check_whole
from qadv.datasets.corrupted import CORRUPTIONS, corrupted
from qadv.datasets.dataset import ImageDataset
from qadv.datasets.systematic import DECODERS, RESIZERS, decoded, resized
from qadv.diagnostics.attacking import check_classifiers
from qadv.diagnostics.measured import Measured
from qadv.estimators.protocol import Classifier
from qadv.evaluation import predicted
from qadv.random_states import repeatable
from qadv.tables import percent, text_table
from qadv.units import to_range


@dataclass(frozen=True)
class NoiseAccuracy(Measured):
    """Accuracies on the same images, clean and changed, 0 to 1; prints as a table of all.

    Attributes:
        networks: their names.
        samples: number of images.
        severity: of the corruptions, 1 to 5.
        corruptions, decoders, resizers: what was changed, as in names of data sets.
        clean: (networks,).
        corrupted, decoded, resized: (corruptions, networks), (decoders, networks) and (resizers, networks).
    """

    networks: tuple[str, ...]
    samples: int
    severity: int
    corruptions: tuple[str, ...]
    decoders: tuple[str, ...]
    resizers: tuple[str, ...]
    clean: NDArray[np.float64]
    corrupted: NDArray[np.float64]
    decoded: NDArray[np.float64]
    resized: NDArray[np.float64]

    def __str__(self) -> str:
        named = (("corrupted", self.corruptions), ("decoded", self.decoders), ("resized", self.resizers))
        rows = [["(clean)", *map(percent, self.clean)]]
        for kind, names in named:
            figures = getattr(self, kind)
            rows += [[f"{kind}:{name}", *map(percent, row)] for name, row in zip(names, figures, strict=True)]
            rows.append([f"{kind}, mean", *map(percent, figures.mean(0))])
        title = f"Accuracy, {self.samples} images, corruptions at severity {self.severity}"
        return text_table(title, ["images", *self.networks], rows)


@repeatable
def noise_accuracy(
    classifiers: Mapping[str, Classifier],
    images: ImageDataset,
    nb_test: int = 100,
    severity: int = 3,
    batch_size: int = 128,
    seed: int = 0,
    verbose: bool = True,
) -> NoiseAccuracy:
    """Measures accuracy on test images with each corruption, from each decoder and after each way of resizing.

    Args:
        classifiers: ART classifiers by name, for the same images and classes.
        images: a data set, of 28 px or more.
        nb_test: number of test images, the first ones.
        severity: of the corruptions, 1 to 5.
        batch_size: images per pass.
        seed: of the corruptions.
        verbose: shows a progress bar.

    Raises:
        InvalidInputError: as `corrupted` does.
        MissingRequirementError: the extra `noise` is not installed.
    """
    targets = check_classifiers(classifiers)
    nb_test, batch_size = check_whole("nb_test", nb_test), check_whole("batch_size", batch_size)
    check_flag("verbose", verbose)
    changed = {
        "clean": [images],
        "corrupted": [corrupted(images, name, severity, seed) for name in CORRUPTIONS],
        "decoded": [decoded(images, name) for name in DECODERS],
        "resized": [resized(images, name) for name in RESIZERS],
    }
    measured: dict[str, NDArray[np.float64]] = {}
    with tqdm(total=sum(map(len, changed.values())), desc="noise", disable=not verbose) as bar:
        for kind, sets in changed.items():
            measured[kind] = np.empty((len(sets), len(targets)))
            for place, each in enumerate(sets):
                x, y = each.take("test", nb_test)
                x = to_range(x, next(iter(targets.values())).clip_values)
                measured[kind][place] = [(predicted(target, x, batch_size) == y).mean() for target in targets.values()]
                bar.update()
    return NoiseAccuracy(
        networks=tuple(targets),
        samples=len(y),
        severity=severity,
        corruptions=CORRUPTIONS,
        decoders=tuple(DECODERS),
        resizers=RESIZERS,
        clean=measured.pop("clean")[0],
        **measured,
    )
