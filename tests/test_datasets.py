"""Data sets: shapes, ranges, and what is said when files are missing or wrong."""

import numpy as np
import pytest

import qadv
from qadv.errors import FileFormatError, StorageError


def check(data, shape, train, test):
    assert data.x_train.shape == (train, *shape)
    assert data.x_test.shape == (test, *shape)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert x.min() == 0
        assert x.max() == 1
        assert set(np.unique(y)) == set(range(10))
    assert len(data.classes) == 10


def test_digits(digits):
    check(digits, (1, 8, 8), 1437, 360)
    assert digits.digest() == qadv.create("dataset", "digits").digest()


@pytest.mark.data
def test_mnist_and_cifar10(data_dir):
    check(qadv.create("dataset", "mnist", data_dir=data_dir), (1, 28, 28), 60000, 10000)
    check(qadv.create("dataset", "cifar10", data_dir=data_dir), (3, 32, 32), 50000, 10000)


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(StorageError, match=r"mnist: expected a folder with mnist.npz; give it as data_dir"):
        qadv.create("dataset", "mnist")
    with pytest.raises(StorageError, match=r"cifar10: there is no file .*cifar10-train-1.npz"):
        qadv.create("dataset", "cifar10", data_dir=tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"no archive")
    with pytest.raises(FileFormatError, match=r"is no whole .npz file"):
        qadv.create("dataset", "mnist", data_dir=tmp_path)
    pair = {"x_train": np.zeros((2, 28, 28, 1), np.uint8), "y_train": np.zeros(2, np.uint8)}
    np.savez(tmp_path / "mnist.npz", **pair, x_test=pair["x_train"], y_test=pair["y_train"])
    with pytest.raises(FileFormatError, match=r"expected uint8 images \(N, 1, 28, 28\)"):
        qadv.create("dataset", "mnist", data_dir=tmp_path)


def test_pickled_arrays_are_not_opened(tmp_path):
    np.savez(tmp_path / "mnist.npz", x_train=np.array([object()], dtype=object))
    with pytest.raises(FileFormatError, match="allow_pickle"):
        qadv.create("dataset", "mnist", data_dir=tmp_path)
