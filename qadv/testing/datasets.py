"""The checks for data sets."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qadv.datasets import ImageDataset, data_folder, make_dataset
from qadv.datasets.dataset import PARTS
from qadv.errors import StorageError
from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import NotApplicable, check, expect, expect_subclass

_LOOKED_AT = 1000  # images of each part, of a data set that may be large


class DatasetCase(ConformanceCase):
    kind = "dataset"
    of_classifier = False

    def make(self, **changes: Any) -> Any:
        """As `qadv.create` does: without a `data_dir` in the folder that QADV_DATA_DIR names, if it reads files."""
        options = {**self.options, **changes}
        try:
            return make_dataset(self.target, **options)
        except StorageError as error:
            if options.get("data_dir") or data_folder():
                raise
            raise NotApplicable(
                "it reads files: say where they are, conformance(..., data_dir=FOLDER), or set QADV_DATA_DIR"
            ) from error

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return [images for _, *images in self.parts(self.make(**changes), 16)]

    def parts(self, images: ImageDataset, number: int = _LOOKED_AT) -> list[tuple[str, Any, Any]]:
        """Returns the two parts by name, the first images of each."""
        return [(part, *images.take(part, number)) for part in PARTS]


@check("dataset")
def contract(case: DatasetCase) -> None:
    """It returns a `qadv.datasets.ImageDataset`, of arrays `Images`, with its name and those of two classes or more."""
    images = case.make()
    expect_subclass(images, ImageDataset, "return Images(name, x_train, ...)")
    came = f"name {images.name!r}, classes {images.classes!r}"
    right = isinstance(images.name, str) and images.name and len(set(images.classes)) == len(images.classes) >= 2
    expect(right, "a name, and names of the classes, each once", came, "Images(name=..., classes=('cat', 'dog'))")


@check("dataset")
def shape_and_dtype(case: DatasetCase) -> None:
    """Images are (N, C, H, W) float32, labels (N,) int64, in both parts of one size."""
    images = case.make()
    for part in PARTS:
        x, y = images.image(part, 0)[None], images.labels(part)
        came = f"x_{part} {x.shape} {x.dtype}, y_{part} {y.shape} {y.dtype}"
        right = x.ndim == 4 and x.dtype == np.float32 and y.ndim == 1 and y.dtype == np.int64
        expect(right, "(N, C, H, W) float32 and (N,) int64, N > 0", came, "x.transpose(0, 3, 1, 2).astype(np.float32)")
        came = f"{part} {x.shape[1:]}, input_shape {images.input_shape}"
        expect(x.shape[1:] == images.input_shape, "images of one size", came, "cut or scale them to one size")


@check("dataset")
def range_of_pixels(case: DatasetCase) -> None:
    """Pixels lie within 0 and 1 and use most of that range."""
    for part, x, _ in case.parts(case.make()):
        came = f"x_{part} from {x.min():g} to {x.max():g}"
        expect(x.min() >= 0 and x.max() <= 1, "values from 0 to 1", came, "divide by 255; do not standardise")
        expect(x.max() > 0.1, "values up to 1", came, "divide by 255 once")


@check("dataset")
def labels(case: DatasetCase) -> None:
    """Labels are indices into `classes`, and each class is in the training part."""
    images = case.make()
    number = len(images.classes)
    for part in PARTS:
        y = images.labels(part)
        came = f"y_{part} from {y.min()} to {y.max()}"
        expect(y.min() >= 0 and y.max() < number, f"labels from 0 to {number - 1}", came, "count classes from 0")
    missing = sorted(set(range(number)) - set(images.labels("train").tolist()))
    expect(not missing, "training images of each class", f"none of {missing}", "shuffle before splitting")


@check("dataset")
def parts_are_apart(case: DatasetCase) -> None:
    """No more than one in a hundred test images is a training image too."""
    images = case.make()
    trained = {hash(images.image("train", index).tobytes()) for index in range(len(images.labels("train")))}
    share = float(np.mean([hash(image.tobytes()) in trained for image in images.take("test", _LOOKED_AT)[0]]))
    expect(share <= 0.01, "test images that are not trained on", f"{share:.1%} are", "split before you copy or augment")


@check("dataset")
def own_arrays(case: DatasetCase) -> None:
    """Each call gives arrays of its own: what one user writes into them, no other sees."""
    images = case.make()
    before = images.digest()
    images.take("test", 1)[0][:] = 0.5
    same = case.make().digest() == before
    expect(same, "the images as they were", "what was written into the last ones", "return copies of what is kept")


@check("dataset")
def order(case: DatasetCase) -> None:
    """A loader gives what `take` does, image by image, in the same order."""
    images = case.make()
    for part, x, y in case.parts(images, 8):
        batch, classes = next(iter(images.loader(part, 8)))
        same = np.array_equal(batch.numpy(), x) and np.array_equal(classes.numpy(), y)
        expect(same, f"the images of take({part!r})", "others", "let image and labels go by the same index")


@check("dataset")
def pickling(case: DatasetCase) -> None:
    """The images can be pickled, as studies with several processes do."""
    images = case.make()
    same = pickle.loads(pickle.dumps(images)).digest() == images.digest()
    expect(same, "the same images", "others", "return plain numpy arrays")


@check("dataset")
def bad_input(case: DatasetCase) -> None:
    """A folder without its files is refused with a message that names the folder or a file."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty-folder"
        try:
            make_dataset(case.target, **{**case.options, "data_dir": empty})
        except Exception as error:
            text = str(error)
        else:
            raise NotApplicable("it needs no files")
    do = "raise qadv.errors.StorageError(f'there is no file {path}; data_dir should hold ...')"
    expect("empty-folder" in text or "." in text, "the folder or a file in the message", text, do)
