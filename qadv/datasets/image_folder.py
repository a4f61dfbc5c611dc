"""`image-folder`: photographs in folders named after their classes."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qadv.datasets.dataset import Labels
from qadv.datasets.photographs import Photographs
from qadv.errors import InvalidInputError, PictureWarning, StorageError, printable, some

_TESTED = ("test", "val", "validation")


class FolderFiles:
    """Files of classes on disk, (N,) paths, with their labels."""

    def __init__(self, paths: NDArray[Any], labels: Labels) -> None:
        self.paths, self.labels = paths, labels

    def open(self, index: int) -> BinaryIO:
        return open(self.paths[index], "rb")

    def name(self, index: int) -> str:
        return printable(str(self.paths[index]))

    def __getitem__(self, places: NDArray[Any]) -> "FolderFiles":
        return FolderFiles(self.paths[places], self.labels[places])


def image_folder(
    data_dir: str | os.PathLike[str] | None = None,
    network: Any = None,
    input_shape: Sequence[int] | None = None,
    skip_bad: bool = False,
    test_share: float = 0.2,
    seed: int = 0,
) -> Photographs:
    """Returns photographs from `data_dir/train/CLASS/*.jpg` and `data_dir/val/CLASS/*.jpg`, of any size.

    The images to test are those of `test/`, else of `val/` or `validation/`; where there are only folders of classes,
    or only `train/`, they are drawn from all. JPEG, PNG, WebP, BMP, PPM, TIFF and GIF are read, hidden files are not
    looked at.

    Args:
        data_dir: the folder.
        network, input_shape, skip_bad, test_share, seed: see `Photographs`.

    Raises:
        StorageError: there is no such folder, or it has no folders of classes.
        InvalidInputError: the classes of the two parts differ, or there are too few images to split.
    """
    if data_dir is None:
        raise StorageError(
            "image-folder: expected a folder with train/CLASS/*.jpg and val/CLASS/*.jpg; give it as data_dir "
            "(--data-dir), as image-folder:FOLDER, or in QADV_DATA_DIR"
        )
    root = Path(data_dir)
    if not root.is_dir():
        raise StorageError(f"image-folder: there is no folder {root}")
    tested = next((root / name for name in _TESTED if (root / name).is_dir()), None)
    folders = _visible_folders(root)
    if "train" not in folders or (tested is None and len(folders) > 1 and not _visible_folders(root / "train")):
        trained, tested = root, None  # one of the classes is called train
    elif tested is None and len(folders) > 1:
        raise InvalidInputError(
            f"image-folder: {root} has {some(folders)}: train has folders of classes, and what to test on is called "
            f"{', '.join(_TESTED)}; rename that, or take what is no part out of {root}"
        )
    else:
        trained = root / "train"
    classes, files = _listed(trained)
    test = None if tested is None else _with_labels_of(classes, *_listed(tested), str(tested), skip_bad)
    return Photographs(root.name, classes, files, test, network, input_shape, skip_bad, test_share, seed)


def _visible_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _listed(folder: Path) -> tuple[list[str], FolderFiles]:
    """Returns the classes of a folder, and all its files; what torchvision's `ImageFolder` does, hidden ones apart."""
    from torchvision.datasets.folder import make_dataset

    def is_visible(path: str) -> bool:
        return not any(part.startswith(".") for part in Path(path).relative_to(folder).parts)

    classes = _visible_folders(folder)
    if len(classes) < 2:
        got = ", ".join(classes) or "none"
        raise StorageError(f"image-folder: expected two folders of classes or more in {folder}, got {got}")
    labels = {name: label for label, name in enumerate(classes)}
    listed = make_dataset(str(folder), labels, is_valid_file=is_visible, allow_empty=True)
    paths = np.array([path for path, _ in listed], dtype=object)
    return classes, FolderFiles(paths, np.array([label for _, label in listed], dtype=np.int64))


def _with_labels_of(classes: list[str], own: list[str], files: FolderFiles, name: str, skip_bad: bool) -> FolderFiles:
    """Returns files with their labels among the classes to train on, and without those that are of no such class."""
    foreign, missing = [name for name in own if name not in classes], [name for name in classes if name not in own]
    if (foreign or missing) and not skip_bad:
        said = [f"it has {some(foreign)}, and train has not"] if foreign else []
        said += [f"train has {some(missing)}, and it has not"] if missing else []
        raise InvalidInputError(
            f"{name}: expected the classes of train; {'; '.join(said)}. Rename them, or leave out what is of no class "
            "of train with skip_bad=True (--skip-bad)"
        )
    if foreign:
        warnings.warn(f"{name}: left out {some(foreign)}, no classes of train", PictureWarning, stacklevel=4)
    known = np.array([classes.index(name) if name in classes else -1 for name in own])
    labels = known[files.labels]
    return FolderFiles(files.paths, labels)[labels >= 0]
