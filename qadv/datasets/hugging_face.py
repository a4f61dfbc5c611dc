"""`huggingface`: data sets that the library `datasets` has saved to a folder."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qadv.datasets.dataset import Labels
from qadv.datasets.photographs import Photographs
from qadv.errors import FileFormatError, InvalidInputError, MissingRequirementError, StorageError

_TESTED = ("test", "validation", "val")


class Rows:
    """Rows of a table with encoded images and labels, those at these places."""

    def __init__(self, table: Any, image: str, label: str, name: str, places: NDArray[np.int64] | None = None) -> None:
        self.table, self.image, self.label, self.title = table, image, label, name
        self.places = np.arange(len(table)) if places is None else places
        self.labels: Labels = np.array(table[label], dtype=np.int64)[self.places]

    def open(self, index: int) -> BinaryIO:
        encoded = self.table[int(self.places[index])][self.image]
        return io.BytesIO(encoded["bytes"]) if encoded["bytes"] is not None else open(encoded["path"], "rb")

    def name(self, index: int) -> str:
        return f"{self.title}, row {self.places[index]}"

    def __getitem__(self, places: NDArray[np.int64]) -> "Rows":
        return Rows(self.table, self.image, self.label, self.title, self.places[places])


def huggingface(
    data_dir: str | os.PathLike[str] | None = None,
    network: Any = None,
    input_shape: Sequence[int] | None = None,
    skip_bad: bool = False,
    test_share: float = 0.2,
    seed: int = 0,
) -> Photographs:
    """Returns the images of a data set that `save_to_disk` wrote; nothing is downloaded, and no code of it runs.

    The first columns of images and of class labels are read; parts and arguments are as of `image-folder`.

    Raises:
        StorageError: there is no such folder.
        FileFormatError: it is no such data set, or has no such columns.
        InvalidInputError: there are too few images to split.
    """
    try:
        from datasets import ClassLabel, DatasetDict, Image, load_from_disk
    except ImportError as error:
        raise MissingRequirementError(f"huggingface: {error}; install it: pip install 'qadv[huggingface]'") from error
    if data_dir is None or not Path(data_dir).is_dir():
        raise StorageError(
            f"huggingface: there is no folder {data_dir or ''}; give one that save_to_disk wrote as data_dir "
            "(--data-dir), as huggingface:FOLDER, or in QADV_DATA_DIR"
        )
    try:
        found = load_from_disk(os.fspath(data_dir))
    except Exception as error:
        raise FileFormatError(f"huggingface: {data_dir} can't be read: {type(error).__name__}: {error}") from error
    tables = dict(found) if isinstance(found, DatasetDict) else {"train": found}
    if "train" not in tables:
        raise FileFormatError(f"huggingface: expected a part called train in {data_dir}, got {', '.join(tables)}")
    features = tables["train"].features
    columns = [next((n for n, f in features.items() if isinstance(f, kind)), None) for kind in (Image, ClassLabel)]
    image, label = columns
    if image is None or label is None:
        raise FileFormatError(f"huggingface: expected columns of images and of class labels in {data_dir}: {features}")
    tested = next((name for name in _TESTED if name in tables), None)
    rows = {
        name: Rows(tables[name].cast_column(image, Image(decode=False)), image, label, f"{data_dir}, {name}")
        for name in ("train", tested)
        if name is not None
    }
    classes, test = features[label].names, None if tested is None else rows[tested]
    if tested is not None and (other := tables[tested].features[label].names) != classes:
        raise InvalidInputError(f"huggingface: {tested} has the classes {other}, train {classes}; make them the same")
    name = Path(data_dir).name
    return Photographs(name, classes, rows["train"], test, network, input_shape, skip_bad, test_share, seed)
