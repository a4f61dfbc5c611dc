"""What a machine provides to the cells that it computes: images, and a folder for unfinished trainings."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from qadv.benchmark.specs import DatasetSpec
from qadv.datasets import ImageDataset
from qadv.errors import InvalidInputError
from qadv.registry import create


@dataclass(frozen=True)
class Given:
    """Folders of one machine: images and checkpoints, and unfinished trainings to resume."""

    data_dir: Path | None
    scratch: Path

    def images(self, wanted: DatasetSpec) -> ImageDataset:
        """Returns the images of a spec, and refuses others than the study was planned with."""
        images, found = read_dataset(wanted.name, self.data_dir)
        if found != wanted.digest:
            raise InvalidInputError(
                f"{wanted.name}: the images in {self.data_dir} are not the ones that the study was planned with"
            )
        return images


@lru_cache(maxsize=2)
def read_dataset(name: str, data_dir: Path | None) -> tuple[ImageDataset, str]:
    """Returns a data set and its digest, read once per process."""
    images: ImageDataset = create("dataset", name, data_dir=data_dir)
    return images, images.digest()
