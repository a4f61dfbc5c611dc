"""Where the training loop gets its batches: arrays kept on the device, a loader, or an ART data generator."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Subset, TensorDataset

from qadv.checks import check_whole
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_images, check_labels
from qadv.estimators.protocol import Classifier
from qadv.modes import nb_labels
from qadv.sources import Pair, as_loader, batches, check_labels_of


class Batches(Protocol):
    """One epoch's batches, `(x, y)` on the device, images (N, *input_shape), labels (N,) int64; and their digest.

    Attributes:
        generators: what they are drawn from in place of torch's global state.
    """

    generators: Sequence[torch.Generator]

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...
    def digest(self) -> str: ...


class ArrayBatches:
    """Shuffled batches of arrays; drawn from torch's global generator.

    A last batch of a single image is left out, since BatchNorm can't train on it.
    """

    generators: Sequence[torch.Generator] = ()

    def __init__(self, x: NDArray[Any], y: NDArray[np.int64], batch_size: int, device: torch.device) -> None:
        batch_size = check_whole("batch_size", batch_size, least=2)  # BatchNorm can't train on one
        self._x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        self._y = torch.from_numpy(y)
        self._batch_size = min(batch_size, len(x))
        self._device = device
        if device.type == "cuda" and self._x.nbytes < torch.cuda.mem_get_info(device)[0] // 2:
            self._x, self._y = self._x.to(device), self._y.to(device)

    def __len__(self) -> int:
        full, rest = divmod(len(self._x), self._batch_size)
        return full + (rest > 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._x)).to(self._x.device)
        for chosen in torch.split(order, self._batch_size)[: len(self)]:
            x, y = (part[chosen].to(self._device, non_blocking=True) for part in (self._x, self._y))
            yield x, y

    def digest(self) -> str:
        return digest_of(self._x, self._y)


def digest_of(*tensors: Tensor) -> str:
    """Returns a hash of tensors, their shapes included."""
    state = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        state.update(str(tuple(tensor.shape)).encode())
        state.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return state.hexdigest()


class ArrayPair(TensorDataset):
    """Images and labels that are held as tensors, with their digest."""

    def digest(self) -> str:
        return digest_of(*self.tensors)


class LoaderBatches:
    """The batches of a source, see `qadv.sources`: a loader's in its order, a `Dataset`'s in a new one in each epoch.

    Attributes:
        alike: several processes that draw alike have the same batches.
    """

    def __init__(
        self, source: Any, classifier: Classifier, batch_size: int, name: str = "x", train: bool = True
    ) -> None:
        batch_size = check_whole("batch_size", batch_size)
        self._name, self._classifier, self._least = name, classifier, 1 + train  # BatchNorm can't train on one
        self._loader, self.alike = as_loader(source, batch_size, shuffle=train), isinstance(source, Dataset)
        self.generators: Sequence[torch.Generator] = _generators(self._loader)
        check_labels_of(self._loader, nb_labels(classifier), name)

    def __len__(self) -> int:
        try:
            batches = len(self._loader)
            sampler = getattr(self._loader, "batch_sampler", None)
            if type(sampler) is not BatchSampler or sampler.drop_last:
                return batches
            rest = len(sampler.sampler) % sampler.batch_size  # type: ignore[arg-type]
            return max(1, batches - (0 < rest < self._least))
        except TypeError as error:
            raise InvalidInputError(f"{self._name}: expected a loader that knows its length: {error}") from error

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        classifier = self._classifier
        for x, y in self._pairs():
            if y is None:
                raise InvalidInputError(f"{self._name}: expected batches (images, labels), got images alone")
            x = check_images(x, classifier.input_shape, classifier.clip_values, f"{self._name}: x", strict=False)
            labels = check_labels(y, len(x), classifier.nb_classes, f"{self._name}: y")
            if len(x) >= self._least:
                yield torch.from_numpy(x).float().to(classifier.device), torch.from_numpy(labels).to(classifier.device)

    def digest(self) -> str:
        data: Any = self._loader.dataset
        if hasattr(data, "digest"):
            return str(data.digest())
        part = ""
        if isinstance(data, Subset):
            chosen = list(data.indices)
            part = "" if chosen == list(range(len(chosen))) else f", {digest_of(torch.tensor(chosen))}"
            data = data.dataset
        return f"{_told(data)}, {len(self)} batches{part}"

    def _pairs(self) -> Iterator[Pair]:
        return batches(self._loader, name=self._name)


def _generators(loader: Any) -> list[torch.Generator]:
    """Returns what a loader and its samplers draw from by themselves, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    drawn = [getattr(part, "generator", None) for part in parts]
    return list({id(each): each for each in drawn if isinstance(each, torch.Generator)}.values())


def _told(data: Any) -> str:
    """Returns what a `Dataset` says of itself without being read, which may draw, augment, or work in workers alone."""
    found = type(data).__name__
    if hasattr(data, "digest"):
        return str(data.digest())
    if type(data) is TensorDataset:
        return f"{found}, {digest_of(*data.tensors)}"
    with suppress(TypeError):
        found += f", {len(data)} samples"
    with suppress(TypeError, ValueError, RuntimeError):
        found += f", {digest_of(torch.as_tensor(np.asarray(data.targets)))}" if hasattr(data, "targets") else ""
    return found


class GeneratorBatches(LoaderBatches):
    """The batches of an ART `DataGenerator`, which decides what it draws and in which order."""

    alike = False

    def __init__(self, generator: Any, classifier: Classifier) -> None:
        if not all(hasattr(generator, name) for name in ("get_batch", "size", "batch_size")):
            raise InvalidInputError(
                f"generator: expected an ART DataGenerator (art.data_generators), got {type(generator).__name__}"
            )
        self._generator, self._classifier, self._name, self._least = generator, classifier, "generator", 2
        self.generators = []

    def __len__(self) -> int:
        return max(1, int(self._generator.size) // int(self._generator.batch_size))

    def digest(self) -> str:
        return f"{type(self._generator).__name__}, {self._generator.size} images"

    def _pairs(self) -> Iterator[Pair]:
        for _ in range(len(self)):
            x, y = (np.asarray(part) for part in self._generator.get_batch())
            yield x, y
