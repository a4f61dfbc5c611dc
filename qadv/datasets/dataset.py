"""What every data set is, whether it is held as arrays or read from files batch by batch."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qadv.checks import check_choice, check_whole
from qadv.errors import InvalidInputError, some

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Images32 = NDArray[np.float32]
Labels = NDArray[np.int64]
PARTS = ("train", "test")


class ImageDataset(ABC):
    """Labelled images in two parts, `"train"` and `"test"`; each part has one order throughout.

    A data set of one's own that reads files is a subclass with the abstract methods; it can be pickled.

    Attributes:
        name: what it is called.
        classes: the classes' names.
    """

    name: str
    classes: tuple[str, ...]

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""

    @abstractmethod
    def labels(self, part: str) -> Labels:
        """Returns the class indices of a part, (N,) int64, without reading its images."""

    @abstractmethod
    def image(self, part: str, index: int) -> Images32:
        """Returns one image of a part, (C, H, W) float32 in [0, 1].

        Raises:
            FileFormatError: its file is no image that can be read; names it.
        """

    @abstractmethod
    def digest(self) -> str:
        """Returns a hash of all images and labels, in their order; what is read from files is never held whole."""

    def take(self, part: str, number: int | None = None, seed: int | None = None) -> tuple[Images32, Labels]:
        """Returns images (n, C, H, W) float32 in [0, 1], and their labels, (n,) int64, as arrays.

        Args:
            part: `"train"` or `"test"`.
            number: how many; all where `None`, or where there are fewer.
            seed: draws them; `None` takes the first ones.
        """
        chosen = self._chosen(part, number, seed)
        images = np.empty((len(chosen), *self.input_shape), dtype=np.float32)
        for place, index in enumerate(chosen):
            images[place] = self.image(part, int(index))
        return images, self.labels(part)[chosen]

    def samples(self, part: str, number: int | None = None, seed: int | None = None) -> Any:
        """Returns a `torch.utils.data.Dataset` of (image, label), its images read when asked for; arguments as `take`.

        Image: tensor (C, H, W) float32 in [0, 1]; label: int. It has the names of the `classes`.
        """
        from qadv.datasets.samples import Samples

        return Samples(self, part, self._chosen(part, number, seed))

    def loader(
        self, part: str, batch_size: int = 128, shuffle: bool = False, seed: int | None = None, workers: int = 0
    ) -> "DataLoader[Any]":
        """Returns the batches of a part: images (n, C, H, W) float32 in [0, 1], labels (n,) int64, as tensors.

        Args:
            part: `"train"` or `"test"`.
            batch_size: images in a batch; the last one may have fewer.
            shuffle: a new order in each pass.
            seed: decides that; `None` draws from torch's global state, which trainers seed for each epoch.
            workers: processes that read images; 0 reads in this one.
        """
        import torch
        from torch.utils.data import DataLoader

        order = None if seed is None else torch.Generator().manual_seed(seed)
        return DataLoader(self.samples(part), batch_size, shuffle, num_workers=workers, generator=order)

    def check_fits(self, classifier: Any) -> None:
        """Raises an `InvalidInputError` where a classifier takes other images, or has other classes, or their order."""
        from qadv.modes import class_names, nb_labels

        if self.input_shape != tuple(classifier.input_shape):
            raise InvalidInputError(
                f"data set {self.name!r} has images of shape {self.input_shape}, the network takes "
                f"{tuple(classifier.input_shape)}"
            )
        check_classes(self.classes, nb_labels(classifier), f"data set {self.name!r}")
        known = class_names(classifier.model)
        numbered = list(self.classes) == [str(number) for number in range(len(self.classes))]
        other = next(
            (pair for pair in enumerate(zip(known, self.classes, strict=False)) if pair[1][0] != pair[1][1]), None
        )
        if other is not None and not numbered:
            label, (of_network, own) = other
            raise InvalidInputError(
                f"data set {self.name!r}: its class {label} is {own}, and the network's {of_network}, so that its "
                f"labels would stand for other classes. Call them as the network does, in its order: {some(known, 10)}"
            )

    def _chosen(self, part: str, number: int | None, seed: int | None) -> NDArray[np.int64]:
        """Returns the indices of the images that `take` takes."""
        size = len(self.labels(check_choice("part", part, PARTS)))
        order = np.arange(size) if seed is None else np.random.default_rng(seed).permutation(size)
        return order if number is None else order[: check_whole("number", number)]


def check_classes(classes: Any, nb_classes: int, where: str) -> None:
    """Raises an `InvalidInputError` where the names of classes are not as many as a network's logits."""
    if len(classes) != nb_classes:
        raise InvalidInputError(
            f"{where} has {len(classes)} classes, {', '.join(map(str, classes[:3]))} …, the network {nb_classes}: its "
            "labels would stand for other classes than the network's"
        )


def fault_of_labels(y: NDArray[Any], nb_classes: int) -> str:
    """Returns what is wrong with labels, `""` where nothing is."""
    known = np.isin(y, np.arange(nb_classes)) if y.dtype.kind in "iuf" else np.zeros(y.shape, dtype=bool)
    if y.ndim == 1 and known.all():
        return ""
    found = f"{(~known).sum():,} others, as {y[~known].flat[0]}" if known.size and not known.all() else str(y.shape)
    return f"expected labels (N,) that are whole numbers from 0 to {nb_classes - 1}, got {found}"
