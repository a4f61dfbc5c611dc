"""A part of a data set as torch's loaders take it."""

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from qadv.datasets.dataset import ImageDataset


class Samples(Dataset[tuple[Tensor, int]]):
    """Images and labels of a data set's part, those with these indices, (N,)."""

    def __init__(self, data: "ImageDataset", part: str, indices: NDArray[Any]) -> None:
        self._data, self._part, self._indices = data, part, indices
        self.labels, self.classes = data.labels(part)[indices], data.classes

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._data.image(self._part, int(self._indices[index]))
        return torch.from_numpy(image), int(self.labels[index])

    def digest(self) -> str:
        """Returns what tells these images from others."""
        content = f"{self._data.digest()} {self._part} {self._indices.tolist()}"
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
