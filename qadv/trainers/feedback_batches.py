"""Batches of training images mixed with images that each round of feedback learning finds anew."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qadv.errors import FileFormatError
from qadv.estimators.protocol import Classifier
from qadv.files import read_tensors, write_tensors
from qadv.trainers.batches import ArrayBatches, digest_of
from qadv.trainers.feedback_search import FeedbackSearch, FeedbackSettings, Found
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.objective import Objective
from qadv.trainers.parallel import Processes

FORMAT = "qadv-feedback/2"


class FeedbackLog(Objective):
    """Puts what the rounds find into the history, and their settings into the checkpoint."""

    def __init__(self, settings: FeedbackSettings) -> None:
        self.settings = settings
        self.entry: dict[str, Any] = {}

    def measure(self, network: TrainedNetwork) -> dict[str, object]:
        return self.entry

    def __repr__(self) -> str:
        return repr(self.settings)


class FeedbackBatches(ArrayBatches):
    """Training images and, behind them, those of the current round; each epoch shuffles all.

    The mix has one size throughout, so that all epochs have the same number of steps: places for as many images as a
    round can add. Where it adds fewer, training images drawn at random take the places that are left.

    Round r begins with the first epoch e for which ⌊e · rounds / nb_epochs⌋ = r, and is searched then, by all processes
    together. With a checkpoint, the steps it found are kept beside it, in `<checkpoint>.feedback`: a run that resumes
    within a round takes the images from there, since the network that they were found on is gone.
    """

    def __init__(
        self,
        x: NDArray[Any],
        y: NDArray[np.int64],
        batch_size: int,
        classifier: Classifier,
        log: FeedbackLog,
        seed: int,
        nb_epochs: int,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self._nb_images = len(x)
        places = log.settings.most_images(y, classifier.nb_classes)
        mix = np.zeros((len(x) + places, *x.shape[1:]), dtype=np.float32)
        mix[: len(x)] = x
        super().__init__(mix, np.concatenate([y, np.zeros(places, np.int64)]), batch_size, classifier.device)
        self._processes = Processes.of_torchrun(classifier.device)
        images = self._x[: len(x)], torch.from_numpy(y)
        self._search = FeedbackSearch(classifier, *images, log.settings, seed, self._processes)
        self._log, self._nb_epochs, self._checkpoint = log, nb_epochs, checkpoint
        self._file = None if checkpoint is None else Path(f"{os.fspath(checkpoint)}.feedback")
        self._epoch: int | None = None
        self._round = -1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._epoch is not None:
            self._epoch += 1
        elif self._checkpoint is None or not Path(self._checkpoint).exists():
            self._epoch = 0
        else:  # where the run resumes
            self._epoch = int((read_tensors(self._checkpoint)[1] or {"epochs_done": 0})["epochs_done"])
        round_ = self._round_of(self._epoch)
        self._log.entry = {"round": round_}
        if self._epoch == 0 or self._round_of(self._epoch - 1) < round_ or self._is_extended():
            found = self._search.find(round_)
            if self._file is not None and self._processes.is_first:
                tensors = {name: getattr(found, name) for name in ("sample", "direction", "length")}
                write_tensors(self._file, tensors, self._header(round_))
            self._log.entry.update(found.report)
            if not len(found.length):
                warnings.warn(
                    f"round {round_} of feedback learning found no image to add: no sample is classified correctly, or "
                    "none has a margin up to max_distance; train the network first, or raise max_distance",
                    stacklevel=2,
                )
            self._mix(found, round_)
        elif self._round != round_:
            self._mix(self._read(round_), round_)
        self._round = round_
        yield from super().__iter__()

    def digest(self) -> str:
        """Returns a digest of the training images."""
        return digest_of(self._x[: self._nb_images], self._y[: self._nb_images])

    def _mix(self, found: Found, round_: int) -> None:
        """Puts a round's images behind the training images."""
        place = self._nb_images
        for part in self._search.images(found, round_):
            self._x[place : place + len(part)] = part.to(self._x.device)
            place += len(part)
        self._y[self._nb_images : place] = self._y[found.sample.to(self._y.device)]
        left = len(self._x) - place
        random = np.random.default_rng([self._search.seed, round_])
        drawn = torch.from_numpy(random.integers(self._nb_images, size=left))
        self._x[place:] = self._x[drawn.to(self._x.device)]
        self._y[place:] = self._y[drawn.to(self._y.device)]

    def _round_of(self, epoch: int) -> int:
        return epoch * self._log.settings.rounds // self._nb_epochs

    def _is_extended(self) -> bool:
        """Whether the images of the last round are of a run that was to have fewer epochs, and other rounds."""
        if self._round >= 0 or self._file is None or not self._file.exists():
            return False
        header = read_tensors(self._file)[1] or {}
        return {**self._header(header.get("round", 0)), "nb_epochs": header.get("nb_epochs")} == header and bool(
            header["nb_epochs"] < self._nb_epochs
        )

    def _read(self, round_: int) -> Found:
        assert self._file is not None
        hint = f"restore it, or delete {self._checkpoint} to start anew"
        if not self._file.exists():
            raise FileFormatError(f"{self._file} with the images of round {round_} is missing; {hint}")
        tensors, header = read_tensors(self._file)
        if header != self._header(round_):
            raise FileFormatError(f"{self._file} does not hold the images of round {round_} of this run; {hint}")
        sample, direction, length = found = [tensors.get(n, torch.empty(0)) for n in ("sample", "direction", "length")]
        places = len(self._x) - self._nb_images
        if (
            [part.dtype for part in found] != [torch.int64, torch.int64, torch.float32]
            or any(part.shape != sample.shape for part in found)
            or len(sample) > places
            or bool(((sample < 0) | (sample >= self._nb_images)).any())
        ):
            raise FileFormatError(
                f"{self._file} is damaged: expected up to {places} steps from images there are; {hint}"
            )
        return Found(sample, direction, length, {})

    def _header(self, round_: int) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "round": round_,
            "settings": repr(self._log.settings),
            "seed": self._search.seed,
            "data": self.digest(),
            "nb_epochs": int(self._nb_epochs),
        }
