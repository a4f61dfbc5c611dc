"""The checks for data sets."""

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from qadv.datasets import Images
from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import NotApplicable, check, expect, expect_subclass


class DatasetCase(ConformanceCase):
    kind = "dataset"
    of_classifier = False

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return self.make(**changes)

    def parts(self, images: Images) -> list[tuple[str, Any, Any]]:
        """Returns the two parts by name."""
        return [("train", images.x_train, images.y_train), ("test", images.x_test, images.y_test)]


@check("dataset")
def contract(case: DatasetCase) -> None:
    """It returns `qadv.datasets.Images`, with its name and the names of two classes or more."""
    images = case.make()
    expect_subclass(images, Images, "return Images(name, x_train, ...)")
    came = f"name {images.name!r}, classes {images.classes!r}"
    right = isinstance(images.name, str) and images.name and len(set(images.classes)) == len(images.classes) >= 2
    expect(right, "a name, and names of the classes, each once", came, "Images(name=..., classes=('cat', 'dog'))")


@check("dataset")
def shape_and_dtype(case: DatasetCase) -> None:
    """Images are (N, C, H, W) float32, labels (N,) int64, in both parts of one size."""
    images = case.make()
    for part, x, y in case.parts(images):
        came = f"x_{part} {x.shape} {x.dtype}, y_{part} {y.shape} {y.dtype}"
        right = x.ndim == 4 and x.dtype == np.float32 and y.shape == (len(x),) and y.dtype == np.int64 and len(x) > 0
        expect(right, "(N, C, H, W) float32 and (N,) int64, N > 0", came, "x.transpose(0, 3, 1, 2).astype(np.float32)")
    shapes = images.x_train.shape[1:], images.x_test.shape[1:]
    expect(shapes[0] == shapes[1], "images of one size", shapes, "cut or scale them to one size")


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
    for part, _, y in case.parts(images):
        came = f"y_{part} from {y.min()} to {y.max()}"
        expect(y.min() >= 0 and y.max() < number, f"labels from 0 to {number - 1}", came, "count classes from 0")
    missing = sorted(set(range(number)) - set(images.y_train.tolist()))
    expect(not missing, "training images of each class", f"none of {missing}", "shuffle before splitting")


@check("dataset")
def parts_are_apart(case: DatasetCase) -> None:
    """No more than one in a hundred test images is a training image too."""
    images = case.make()
    trained = {image.tobytes() for image in images.x_train}
    share = float(np.mean([image.tobytes() in trained for image in images.x_test]))
    expect(share <= 0.01, "test images that are not trained on", f"{share:.1%} are", "split before you copy or augment")


@check("dataset")
def own_arrays(case: DatasetCase) -> None:
    """Each call gives arrays of its own: what one user writes into them, no other sees."""
    images = case.make()
    before = images.digest()
    images.x_test[:1] = 0.5
    same = case.make().digest() == before
    expect(same, "the images as they were", "what was written into the last ones", "return copies of what is kept")


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
            case.make(data_dir=empty)
        except Exception as error:
            text = str(error)
        else:
            raise NotApplicable("it needs no files")
    do = "raise qadv.errors.StorageError(f'there is no file {path}; data_dir should hold ...')"
    expect("empty-folder" in text or "." in text, "the folder or a file in the message", text, do)
