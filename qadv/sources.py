"""Images that come batch by batch: from a torch `DataLoader` or `Dataset`, or ART's `PyTorchDataGenerator`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from qadv.datasets.dataset import ImageDataset, check_classes
from qadv.errors import InvalidInputError

Pair = tuple[NDArray[Any], NDArray[Any] | None]
_MOST_BYTES = 2**30  # as float32: 1,783 images of 3×224×224


def is_source(given: Any) -> bool:
    """Whether images come from there batch by batch; a data set of qadv's, which has two parts, is refused."""
    if isinstance(given, ImageDataset):
        raise InvalidInputError(f"expected one part of data set {given.name!r}: give data.samples('test')")
    return isinstance(_unwrapped(given), DataLoader | Dataset)


def as_loader(source: Any, batch_size: int = 128, shuffle: bool = False) -> DataLoader[Any]:
    """Returns the loader itself, or one for a `Dataset`: in its order, or in a new one in each pass."""
    found = _unwrapped(source)
    return found if isinstance(found, DataLoader) else DataLoader(found, batch_size, shuffle)


def check_labels_of(source: Any, nb_classes: int, name: str = "x") -> None:
    """Raises an `InvalidInputError` where a source says its classes, and they are not a network's number."""
    found = getattr(_unwrapped(source), "dataset", source)
    while not hasattr(found, "classes") and hasattr(found, "dataset"):  # torch's Subset
        found = found.dataset
    if (classes := getattr(found, "classes", None)) is not None:
        check_classes(classes, nb_classes, name)


def batches(source: Any, batch_size: int = 128, name: str = "x") -> Iterator[Pair]:
    """Yields the images of one pass, (n, …), and their labels, (n,) or (n, classes), or `None`; refuses all else."""
    for batch in as_loader(source, batch_size):
        images, labels = (*batch, None)[:2] if isinstance(batch, tuple | list) else (batch, None)
        try:
            yield _array(images), None if labels is None else _array(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(
                f"{name}: expected batches (images, labels) of tensors, got {type(batch).__name__} with "
                f"{type(images).__name__}"
            ) from error


def read(source: Any, name: str = "x") -> Pair:
    """Returns all images of a source, and their labels, as arrays: a few hundred, to attack or to calibrate with.

    None, or more than 1 GiB as float32, are an `InvalidInputError`.
    """
    found = list[Pair]()
    size = 0
    for pair in batches(source, name=name):
        found.append(pair)
        size += pair[0].size * 4
        if size > _MOST_BYTES:
            raise InvalidInputError(
                f"{name}: more than {sum(len(images) for images, _ in found):,} images to be held at once; give fewer, "
                "e.g. x, y = data.take('test', 500), or torch.utils.data.Subset(dataset, range(500))"
            )
    if not found:
        raise InvalidInputError(f"{name}: expected images, got none")
    images, labels = zip(*found, strict=True)
    return np.concatenate(images), None if labels[0] is None else np.concatenate(labels)


def _unwrapped(given: Any) -> Any:
    """Returns the loader of an ART generator."""
    own = getattr(given, "iterator", None) if hasattr(given, "get_batch") else None
    return own if isinstance(own, DataLoader) else given


def _array(given: Any) -> NDArray[Any]:
    return np.asarray(torch.as_tensor(given).numpy(force=True))
