"""Data sets that are held as numpy arrays: float32 in [0, 1], channels first."""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.datasets.dataset import ImageDataset, Images32, Labels, fault_of_labels
from qadv.errors import FileFormatError, InvalidInputError, StorageError


@dataclass(frozen=True)
class Images(ImageDataset):
    """A data set that is held as arrays.

    Attributes:
        x_train, x_test: images, (N, C, H, W) float32 in [0, 1].
        y_train, y_test: class indices, (N,) int64, one for each image.
        classes: the classes' names.
    """

    name: str
    x_train: Images32
    y_train: Labels
    x_test: Images32
    y_test: Labels
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for part, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            if len(x) != len(y):
                raise InvalidInputError(f"data set {self.name!r}: {len(x)} images and {len(y)} labels, {part}")
            if fault := fault_of_labels(np.asarray(y), len(self.classes)):
                raise InvalidInputError(f"data set {self.name!r}, y_{part}: {fault}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.x_train.shape[1:]

    def labels(self, part: str) -> Labels:
        return self.y_train if part == "train" else self.y_test

    def image(self, part: str, index: int) -> Images32:
        return np.asarray((self.x_train if part == "train" else self.x_test)[index])

    def take(self, part: str, number: int | None = None, seed: int | None = None) -> tuple[Images32, Labels]:
        """As any data set's; a view where it is the first ones that are taken."""
        chosen: Any = slice(len(self._chosen(part, number, None))) if seed is None else self._chosen(part, number, seed)
        return (self.x_train if part == "train" else self.x_test)[chosen], self.labels(part)[chosen]

    def digest(self) -> str:
        state = hashlib.blake2b(digest_size=16)
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            state.update(f"{array.shape}{array.dtype}".encode())
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


_DIGITS = tuple("0123456789")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Returns scikit-learn's digits, 1×8×8: 1,437 to train, 360 to test, a fixed stratified split, without files."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    split = train_test_split(x, y.astype(np.int64), test_size=360, random_state=0, stratify=y)
    x_train, x_test, y_train, y_test = split
    return Images("digits", x_train, y_train, x_test, y_test, _DIGITS)


def mnist(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Returns MNIST, 1×28×28, from `data_dir/mnist.npz` (keys x_train, y_train, x_test, y_test; uint8)."""
    (path,) = _paths(data_dir, "mnist", ["mnist.npz"])
    train, test = (_npz_part(path, part, (1, 28, 28)) for part in ("train", "test"))
    return Images("mnist", *_scaled(*train, 10, path.name), *_scaled(*test, 10, path.name), _DIGITS)


def cifar10(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Returns CIFAR-10, 3×32×32, from `data_dir/cifar10-train-1.npz` … `-5.npz` and `cifar10-test.npz` (uint8)."""
    names = [f"cifar10-{part}.npz" for part in ("test", *(f"train-{number}" for number in range(1, 6)))]
    test, *train = _paths(data_dir, "cifar10", names)
    parts = [_npz_part(path, "train", (3, 32, 32)) for path in train]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    tested = _scaled(*_npz_part(test, "test", (3, 32, 32)), 10, test.name)
    return Images("cifar10", *_scaled(x, y, 10, "cifar10-train-*.npz"), *tested, _CIFAR10)


def cifar10_16(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Returns CIFAR-10 at half its size, 3×16×16: means of 2×2 pixels. A training step on it takes a quarter."""
    full = cifar10(data_dir)
    small = (x.reshape(len(x), 3, 16, 2, 16, 2).mean((3, 5), dtype=np.float32) for x in (full.x_train, full.x_test))
    x_train, x_test = small
    return Images("cifar10-16", x_train, full.y_train, x_test, full.y_test, full.classes)


def cifar100(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Returns CIFAR-100 with its 100 fine classes, 3×32×32, from `data_dir/cifar-100-binary`, the binary version.

    The folder is the published archive's, with `train.bin`, `test.bin` and `fine_label_names.txt`.
    """
    files = ["train.bin", "test.bin", "fine_label_names.txt"]
    train, test, names = _paths(data_dir, "cifar100", [f"cifar-100-binary/{file}" for file in files])
    try:
        classes = tuple(names.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{names}: expected the names of classes in UTF-8: {error}") from error
    return Images("cifar100", *_cifar100_records(train, len(classes)), *_cifar100_records(test, len(classes)), classes)


def _cifar100_records(path: Path, nb_classes: int) -> tuple[Images32, Labels]:
    """Reads records of a coarse label, a fine label, and 3×32×32 pixels, a byte each."""
    content = np.fromfile(path, dtype=np.uint8)
    length = 2 + 3 * 32 * 32
    if not len(content) or len(content) % length:
        raise FileFormatError(f"{path}: expected records of {length} bytes, got a file of {len(content)} bytes")
    records = content.reshape(-1, length)
    return _scaled(records[:, 2:].reshape(-1, 3, 32, 32), records[:, 1], nb_classes, path.name)


def svhn(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Returns the Street View House Numbers, 3×32×32, from `data_dir/train_32x32.mat` and `test_32x32.mat`.

    The published files, cropped digits; the label 10 stands for the digit 0. The "extra" images are not read.
    """
    train, test = _paths(data_dir, "svhn", ["train_32x32.mat", "test_32x32.mat"])
    return Images("svhn", *_svhn_part(train), *_svhn_part(test), _DIGITS)


def _svhn_part(path: Path) -> tuple[Images32, Labels]:
    from scipy.io import loadmat

    try:
        arrays = loadmat(path, variable_names=["X", "y"])
        x, y = arrays["X"], arrays["y"].ravel()
    except Exception as error:
        raise FileFormatError(f"{path} is not a .mat file with X and y: {type(error).__name__}: {error}") from error
    if x.dtype != np.uint8 or x.shape[:-1] != (32, 32, 3) or len(y) != x.shape[-1]:
        got = f"{x.dtype} {x.shape} and {y.shape}"
        raise FileFormatError(f"{path.name}: expected uint8 images (32, 32, 3, N) and N labels, got {got}")
    labels = np.where(y == 10, 0, np.where(y == 0, -1, y))  # the file has no label 0
    return _scaled(x.transpose(3, 2, 0, 1), labels, 10, path.name)


def _paths(data_dir: str | os.PathLike[str] | None, name: str, files: list[str]) -> list[Path]:
    if data_dir is None:
        raise StorageError(
            f"{name}: expected a folder with {', '.join(files)}; give it as data_dir (--data-dir), or in QADV_DATA_DIR"
        )
    paths = [Path(data_dir) / file for file in files]
    for path in paths:
        if not path.is_file():
            raise StorageError(f"{name}: there is no file {path}; data_dir should hold {', '.join(files)}")
    return paths


def _npz_part(path: Path, part: str, shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Reads `x_PART` and `y_PART` of an .npz file and nothing else of it, after looking at their types and shapes."""
    x_name, y_name = f"x_{part}", f"y_{part}"
    try:
        with zipfile.ZipFile(path) as archive:
            x_type, x_shape = _npy_header(archive, x_name)
            y_type, y_shape = _npy_header(archive, y_name)
            if x_type != np.uint8 or x_shape[1:] != shape or y_type.kind not in "iuf" or y_shape != x_shape[:1]:
                raise FileFormatError(
                    f"{path.name}: expected uint8 images (N, {', '.join(map(str, shape))}) in {x_name} and N labels "
                    f"in {y_name}, got {x_type} {x_shape} and {y_type} {y_shape}"
                )
            x, y = (archive.open(f"{name}.npy") for name in (x_name, y_name))
            with x, y:  # which compare their check sums at their end
                return np.lib.format.read_array(x, allow_pickle=False), np.lib.format.read_array(y, allow_pickle=False)
    except FileFormatError:
        raise
    except Exception as error:
        raise FileFormatError(
            f"{path} is not a whole .npz file with {x_name} and {y_name}: {type(error).__name__}: {error}"
        ) from error


def _npy_header(archive: zipfile.ZipFile, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Returns type and shape of an array, after checking that the archive holds as many bytes as these take."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds objects, which need allow_pickle, and pickles are never opened")
        if archive.getinfo(f"{name}.npy").file_size != file.tell() + prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} does not hold the values that its header says, {dtype} {shape}")
    return dtype, shape


def _scaled(x: NDArray[Any], y: NDArray[Any], nb_classes: int, file: str) -> tuple[Images32, Labels]:
    """Returns images in [0, 1] and labels, which have to be classes."""
    if not len(x):
        raise FileFormatError(f"{file}: expected images, got none")
    if fault := fault_of_labels(y, nb_classes):
        raise FileFormatError(f"{file}: {fault}")
    return x.astype(np.float32) / np.float32(255), y.astype(np.int64)
