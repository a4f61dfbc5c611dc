"""What attacks on batches of tensors share: ART's `EvasionAttack` contract up to the first batch."""

import math
from typing import Any, NamedTuple

import numpy as np
from art.attacks import EvasionAttack
from numpy.typing import NDArray

from qadv.checks import check_flag, check_whole
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_images, check_labels
from qadv.strengths import check_eps
from qadv.units import Length, in_pixels


class Given(NamedTuple):
    """What `generate` was given, checked.

    Attributes:
        x: images, (N, *input_shape) float32 within `clip_values`.
        labels: indices, (N,) int64, or `None` for the network's own predictions.
        seed: the attack's, or one drawn from numpy's global state.
    """

    x: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    seed: int


class TorchAttack(EvasionAttack):
    """An attack with batches, a seed and a progress bar.

    Args:
        estimator: an ART classifier.
        targeted: `y` are the classes wanted, not those to be left.
        batch_size: images, or rows of one forward pass, at most.
        seed: `None` draws one from numpy's global state, at each `generate`.
        verbose: show progress.

    Attributes:
        partial: the images as far as they were found, also after an interrupted `generate`, (N, *input_shape) float32.
    """

    attack_params = [*EvasionAttack.attack_params, "batch_size", "seed", "verbose"]

    partial: NDArray[np.float32]

    def __init__(self, estimator: Any, targeted: bool, batch_size: int, seed: int | None, verbose: bool) -> None:
        super().__init__(estimator=estimator)
        self._targeted = targeted
        self.batch_size = batch_size
        self.seed = seed
        self.verbose = verbose

    def in_pixels(self, name: str, length: Length) -> float:
        """Returns a length in the units of `clip_values`: numbers as they are, a `Share` of the range times its width.

        Args:
            name: the option's name, for the message.
            length: as given, or the default.

        Raises:
            InvalidInputError: a share, and the estimator has no `clip_values`.
        """
        return in_pixels(name, length, self.estimator.clip_values)

    def _given(self, x: NDArray[Any], y: NDArray[Any] | None, kwargs: dict[str, Any]) -> Given:
        """Returns what `generate` was given, checked, and sets `partial` to the images.

        Raises:
            InvalidInputError: images or labels are off, targets are missing, or there is an argument besides.
        """
        if kwargs:
            raise InvalidInputError(f"{type(self).__name__}.generate takes x and y; got also {', '.join(kwargs)}")
        x = check_images(x, self.estimator.input_shape, self.estimator.clip_values).astype(np.float32)
        labels = self._given_labels(y, len(x))
        seed = int(np.random.randint(2**31)) if self.seed is None else self.seed
        self.partial = x.copy()
        return Given(x, labels, seed)

    def _given_labels(self, y: NDArray[Any] | None, nb_images: int) -> NDArray[np.int64] | None:
        if y is not None:
            return check_labels(y, nb_images, self.estimator.nb_classes)
        if self.targeted:
            raise InvalidInputError(f"y: a targeted {type(self).__name__} needs the target classes, got None")
        return None

    def checked_eps(self, name: str, eps: Any, norm: float = np.inf, zero: bool = True) -> float:
        """Returns a radius as a number, also one written as `"8/255"`.

        Raises:
            InvalidInputError: it is none, or larger than any distance of two images.
        """
        nb_values = math.prod(self.estimator.input_shape)
        return check_eps(name, eps, self.estimator.clip_values, norm, nb_values, zero)

    def _check_params(self) -> None:
        check_flag("targeted", self.targeted)
        check_whole("batch_size", self.batch_size)
        if self.seed is not None:
            check_whole("seed", self.seed, least=0)
        check_flag("verbose", self.verbose)
