"""Feedback learning (Song, Fallon, Li: AAAI 2021 RSEML workshop), docs/methods.md §4."""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

import numpy as np
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray

from qadv.checks import check_whole
from qadv.errors import InvalidInputError
from qadv.trainers.batches import Batches
from qadv.trainers.feedback_batches import FeedbackBatches, FeedbackLog
from qadv.trainers.feedback_search import FeedbackSettings
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.trainers.objective import Objective
from qadv.units import width


class FeedbackTrainer(LoopTrainer):
    """Widens the margins of a trained network where they are small, with images from beyond its decision boundaries.

    Each round ranks the classes by robustness and takes `samples_per_class` samples of each: few of the robust, many of
    the weak. For each sample x it measures margins m(d) along random unit directions d, and for the `nb_nearest`
    smallest it adds clip(x + κ · m(d) · d), κ ~ U[1.5, 2.0], with the label of x, to the training images. The network
    is trained on the mix for `nb_epochs / rounds` epochs. docs/defenses/feedback.md has the definitions and the cost.

    **Reading:** a class is as robust as the mean, over its correctly classified samples, of the smallest margin; a
    sample without a margin up to `max_distance` counts with `max_distance`, a class without a correctly classified
    sample with 0. Samples are drawn from the correctly classified ones: a misclassified one has no margin. Distance is
    measured before clipping to `clip_values`, the class behind it, as what the network is fed.

    Args:
        classifier: an ART `PyTorchClassifier`, quantized or not, whose network is trained: margins of an untrained one
            say nothing.
        rounds: searches, at most `nb_epochs`.
        nb_directions: random directions tried for each sample.
        nb_nearest: of these, the ones with the smallest margins that give an image, at most `nb_directions`.
        samples_per_class: for a robust, a middle and a weak class; a class with fewer correctly classified samples
            gives those it has.
        robust_share, weak_share: most and least robust part of the classes, 0 to 1; rounded to whole classes, halves
            upwards.
        kappa: smallest and largest κ, above 0.
        ranking_samples: samples per class that it is ranked by.
        max_distance: where the search ends, L2 in pixel values; `None` takes half the diagonal of the box of
            `clip_values`: a step of twice as much leaves nothing of an image.
        tolerance: relative precision of margins, 1e-5 to 1.
        search_batch_size: images in one forward pass of the search.
        objectives: other defenses to combine with.
        options: see `LoopOptions`; `lr` defaults to 0.1, which is much for a trained network.
    """

    one_epoch_each = "rounds"  # the option of which each takes an epoch or more

    takes_sources = False

    def __init__(
        self,
        classifier: PyTorchClassifier,
        rounds: int = 5,
        nb_directions: int = 100,
        nb_nearest: int = 40,
        samples_per_class: tuple[int, int, int] = (20, 100, 150),
        robust_share: float = 0.2,
        weak_share: float = 0.5,
        kappa: tuple[float, float] = (1.5, 2.0),
        ranking_samples: int = 20,
        max_distance: float | None = None,
        tolerance: float = 0.05,
        search_batch_size: int = 512,
        objectives: Sequence[Objective] = (),
        **options: Any,
    ) -> None:
        given = {**locals(), "batch_size": search_batch_size}
        super().__init__(classifier, objectives, **options)
        if max_distance is None:
            if classifier.clip_values is None:
                raise InvalidInputError("max_distance: expected a number, since the classifier has no clip_values")
            diagonal = width(classifier.clip_values) * math.sqrt(math.prod(classifier.input_shape))
            given["max_distance"] = diagonal / 2
        self.settings = FeedbackSettings(**{field.name: given[field.name] for field in fields(FeedbackSettings)})
        self._log = FeedbackLog(self.settings)
        self.objectives.append(self._log)

    def _source_batches(self, source: Any, batch_size: int = 128) -> NoReturn:
        """Refuses: samples are chosen among all training images, which do not come at once."""
        raise InvalidInputError(
            "FeedbackTrainer chooses samples among all training images; use fit(x, y), with arrays: no generator, "
            "DataLoader or Dataset"
        )

    def _parameters(self) -> dict[str, Any]:
        own = {"search_batch_size" if k == "batch_size" else k: v for k, v in vars(self.settings).items()}
        return {**own, "adversary": self.adversary}

    def _batches(self, x: NDArray[Any], y: NDArray[np.int64], batch_size: int, nb_epochs: int) -> Batches:
        check_whole("nb_epochs", nb_epochs, least=self.settings.rounds)
        return FeedbackBatches(
            x, y, batch_size, self._classifier, self._log, self.options.seed, nb_epochs, self.options.checkpoint
        )
