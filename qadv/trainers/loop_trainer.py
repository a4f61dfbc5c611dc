"""What all of qadv's trainers share: ART's `Trainer` contract on the one training loop."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch.utils.data import Dataset, Subset

from qadv.checks import check_number
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_alone, check_pair
from qadv.sources import is_source
from qadv.trainers.adversary import AdversarialInputs, Adversary
from qadv.trainers.batches import ArrayBatches, ArrayPair, Batches, GeneratorBatches, LoaderBatches
from qadv.trainers.early_stop import EarlyStop
from qadv.trainers.loop import History, TrainingLoop
from qadv.trainers.objective import Objective
from qadv.trainers.options import LoopOptions
from qadv.trainers.stochastic_schedule import RATIOS, StochasticSchedule


class LoopTrainer(Trainer):
    """An ART trainer that is a list of objectives; with none it trains on the classifier's loss alone.

    Args:
        classifier: an ART `PyTorchClassifier`, quantized or not.
        objectives: what the defense adds.
        adversary: what the loss is taken on: `None` for the images themselves, `"fgsm"`, `"r-fgsm"`, `"pgd"`, or an
            `Adversary` that says more.
        sq_ratios: share of the filters that schemes `sq(…)` quantize, one ratio for each stage of the training; the
            last is 1, so that the network ends fully quantized.
        early_stop: an `EarlyStop`, or its arguments by name, `{}` for the defaults: after each epoch PGD attacks images
            that are not trained on, and the weights of the most robust epoch are kept.
        options: keyword arguments of `LoopOptions`: `lr`, `momentum`, `weight_decay`, `lr_schedule`, `augment`, `seed`,
            `amp`, `compile`, `channels_last`, `checkpoint`, `verbose`.

    Attributes:
        history: one dict per finished epoch of the last `fit`, see `TrainingLoop.run`; kept in the checkpoint too.
        takes_sources: whether `fit` takes images in batches, a `DataLoader`, say.
    """

    takes_sources = True

    def __init__(
        self,
        classifier: PyTorchClassifier,
        objectives: Sequence[Objective] = (),
        *,
        adversary: str | Adversary | None = None,
        sq_ratios: Sequence[float] = RATIOS,
        early_stop: EarlyStop | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(classifier, PyTorchClassifier):
            raise InvalidInputError(f"classifier: expected an ART PyTorchClassifier, got {type(classifier).__name__}")
        super().__init__(classifier)
        try:
            self.options = LoopOptions(**options)
        except TypeError as error:
            known = ", ".join(["adversary", "sq_ratios", "early_stop", *LoopOptions.__dataclass_fields__])
            raise InvalidInputError(f"{type(self).__name__}: {error}; options: {known}") from error
        self.sq_ratios = _check_ratios(sq_ratios)
        self.adversary = None if adversary is None else Adversary.of(adversary)
        self.objectives = [StochasticSchedule(self.sq_ratios, self.options.seed), *objectives]
        if self.adversary is not None:
            self.objectives.append(AdversarialInputs(self.adversary))
        self.early_stop = None if early_stop is None else EarlyStop.of(early_stop)
        for objective in (*self.objectives, self.early_stop):
            if isinstance(used := getattr(objective, "adversary", None), Adversary):
                used.check_range(classifier.clip_values)
        self.history: History = []

    def fit(
        self,
        x: Any,
        y: NDArray[Any] | None = None,
        validation_data: Any = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        **kwargs: Any,
    ) -> None:
        """Trains the classifier; afterwards its network is in evaluation mode.

        Args:
            x: images, (N, *input_shape), float, within `clip_values`; or what gives them with their labels, batch by
                batch: a `Dataset` of torch's, shuffled anew in each epoch, a `DataLoader`, in its own order, or an ART
                `DataGenerator`.
            y: labels, indices (N,) or one-hot (N, nb_classes); `None` where they come with the images.
            validation_data: images and labels that are evaluated after each epoch; or a `Dataset`, `DataLoader` or
                `PyTorchDataGenerator`.
            batch_size: images per step.
            nb_epochs: number of epochs.
            kwargs: `scheduler`, any object with `.step()`, replaces `lr_schedule` and is stepped after each epoch.

        Raises:
            TrainingError: the loss is not finite; says epoch, step and layer.
            FileFormatError: the checkpoint is of another run, or damaged.
        """
        if hasattr(x, "get_batch"):
            return self.fit_generator(x, nb_epochs, validation_data, **kwargs)
        if is_source(x):
            check_alone(y)
            x, validation_data = self._held_out(x, validation_data)
            batches: Batches = self._source_batches(x, batch_size)
        else:
            images, labels = check_pair(self._classifier, x, y)
            if len(images) < 2:
                raise InvalidInputError("x: training needs at least 2 images (BatchNorm can't train on one)")
            (images, labels), validation_data = self._held_out((images, labels), validation_data)
            batches = self._batches(images, labels, batch_size, nb_epochs)
        return self._run(batches, nb_epochs, validation_data, kwargs)

    def fit_generator(self, generator: Any, nb_epochs: int = 20, validation_data: Any = None, **kwargs: Any) -> None:
        """Trains on the batches of an ART `DataGenerator`, `nb_epochs` times its size; other arguments as of `fit`.

        A checkpoint then resumes at the epoch where the run stopped; whether to the bit depends on the generator, which
        keeps its own order.
        """
        self._run(self._source_batches(generator), nb_epochs, validation_data, kwargs)

    def __repr__(self) -> str:
        own = {"sq_ratios": self.sq_ratios, "early_stop": self.early_stop}
        shown = {**self._parameters(), **own, **vars(self.options)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def _parameters(self) -> dict[str, Any]:
        """Returns the arguments that a subclass has besides those of the loop, by name."""
        return {"objectives": self.objectives[1:], "adversary": self.adversary}

    def _batches(self, x: NDArray[Any], y: NDArray[np.int64], batch_size: int, nb_epochs: int) -> Batches:
        """Returns what `fit` trains on."""
        return ArrayBatches(x, y, batch_size, self._classifier.device)

    def _source_batches(self, source: Any, batch_size: int = 128) -> Batches:
        """Returns what is trained on where images come batch by batch."""
        if is_source(source) and not hasattr(source, "get_batch"):
            return LoaderBatches(source, self._classifier, batch_size)
        return GeneratorBatches(source, self._classifier)

    def _held_out(self, data: Any, validation_data: Any) -> tuple[Any, Any]:
        """Returns what is trained on and what is evaluated: for early stopping, the last of the training images."""
        if self.early_stop is None or validation_data is not None or not isinstance(data, tuple | Dataset):
            return data, validation_data
        labels: Any = data[1] if isinstance(data, tuple) else getattr(data, "labels", None)
        size, nb_images = len(labels if labels is not None else data), self.early_stop.nb_images  # type: ignore[arg-type]
        if size < nb_images + 2:
            raise InvalidInputError(f"early_stop: nb_images = {nb_images} of {size} training images can't be held out")
        if labels is not None and len(np.unique(labels[-nb_images:])) == 1 < len(np.unique(labels)):
            raise InvalidInputError(
                f"early_stop: the last {nb_images} training images are of one class: shuffle them, or give "
                "validation_data"
            )
        kept, held = slice(size - nb_images), slice(size - nb_images, size)
        if isinstance(data, tuple):
            return tuple(part[kept] for part in data), tuple(part[held] for part in data)
        return tuple(Subset(data, range(size)[part]) for part in (kept, held))  # type: ignore[return-value]

    def _validation(self, given: Any) -> LoaderBatches:
        """Returns the batches that are evaluated after each epoch."""
        name = "validation_data"
        if not is_source(given):
            if not isinstance(given, tuple | list) or len(given) != 2:
                raise InvalidInputError(f"{name}: expected a pair (images, labels), a DataLoader or a Dataset")
            pair = check_pair(self._classifier, given[0], given[1], names=(f"{name}[0]", f"{name}[1]"))
            given = ArrayPair(*map(torch.from_numpy, pair))
        return LoaderBatches(given, self._classifier, 256, name, train=False)

    def _run(self, batches: Batches, nb_epochs: int, validation_data: Any, kwargs: dict[str, Any]) -> None:
        if self.early_stop is not None and validation_data is None:
            raise InvalidInputError("early_stop: of a loader or generator no images are held out; give validation_data")
        validation = None if validation_data is None else self._validation(validation_data)
        scheduler = kwargs.pop("scheduler", None)
        if kwargs:
            raise InvalidInputError(
                f"fit takes no argument {', '.join(kwargs)}; options of training belong to {type(self).__name__}(...)"
            )
        if scheduler is not None and not callable(getattr(scheduler, "step", None)):
            raise InvalidInputError(f"scheduler: expected an object with .step(), got {type(scheduler).__name__}")
        loop = TrainingLoop(self._classifier, self.objectives, self.options, type(self).__name__, self.early_stop)
        try:
            loop.run(batches, nb_epochs, validation, scheduler)
        finally:
            self.history = loop.history


def _check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    given = ratios if isinstance(ratios, Sequence) and not isinstance(ratios, str) else ()
    found = tuple(check_number("sq_ratios", ratio, zero=True, most=1) for ratio in given)
    if not found or found[-1] != 1:
        raise InvalidInputError(
            f"sq_ratios: expected numbers from 0 to 1, the last one 1 (else some filters stay real), got {ratios!r}"
        )
    return found
