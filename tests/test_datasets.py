"""Data sets: shapes, ranges, and what is said when files are missing or wrong."""

import tracemalloc
import zipfile

import numpy as np
import pytest

import qadv
from qadv.datasets import Images
from qadv.errors import FileFormatError, InvalidInputError, StorageError


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


def test_cifar10_at_half_its_size(tmp_path):
    rng = np.random.default_rng(0)
    for part, key in [("test", "test"), *((f"train-{number}", "train") for number in range(1, 6))]:
        x = rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
        np.savez(tmp_path / f"cifar10-{part}.npz", **{f"x_{key}": x, f"y_{key}": rng.permutation(10)[:2]})
    full, small = (qadv.create("dataset", name, data_dir=tmp_path) for name in ("cifar10", "cifar10-16"))
    for half, whole in ((small.x_train, full.x_train), (small.x_test, full.x_test)):
        corners = [whole[:, :, top::2, left::2] for top in (0, 1) for left in (0, 1)]
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, np.mean(corners, axis=0), atol=1e-6)
    np.testing.assert_array_equal(small.y_train, full.y_train)
    np.testing.assert_array_equal(small.y_test, full.y_test)
    assert (small.name, small.classes) == ("cifar10-16", full.classes)


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(StorageError, match=r"mnist: expected a folder with mnist.npz; give it as data_dir"):
        qadv.create("dataset", "mnist")
    with pytest.raises(StorageError, match=r"cifar10: there is no file .*cifar10-train-1.npz"):
        qadv.create("dataset", "cifar10", data_dir=tmp_path)
    (tmp_path / "mnist.npz").write_bytes(b"no archive")
    with pytest.raises(FileFormatError, match=r"is not a whole .npz file"):
        qadv.create("dataset", "mnist", data_dir=tmp_path)
    pair = {"x_train": np.zeros((2, 28, 28, 1), np.uint8), "y_train": np.zeros(2, np.uint8)}
    np.savez(tmp_path / "mnist.npz", **pair, x_test=pair["x_train"], y_test=pair["y_train"])
    with pytest.raises(FileFormatError, match=r"expected uint8 images \(N, 1, 28, 28\)"):
        qadv.create("dataset", "mnist", data_dir=tmp_path)


def pair(part, count=2):
    return {f"x_{part}": np.zeros((count, 1, 28, 28), np.uint8), f"y_{part}": np.arange(count)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.array([0, 10])}, "whole numbers from 0 to 9, got 1 others, as 10"),
        ({"y_test": np.array([-1, 0])}, "whole numbers from 0 to 9, got 1 others, as -1"),
        ({"y_train": np.array(["0", "1"])}, "N labels in y_train, got .* <U1"),
        ({"y_train": np.zeros(3, int)}, r"got uint8 \(2, 1, 28, 28\) and int64 \(3,\)"),
        ({"x_test": np.zeros((2, 1, 28, 28))}, r"expected uint8 images .* in x_test"),
        (pair("train", 0), "expected images, got none"),
    ],
)
def test_arrays_that_are_no_images_with_labels(changes, message, tmp_path):
    np.savez(tmp_path / "mnist.npz", **{**pair("train"), **pair("test"), **changes})
    with pytest.raises(FileFormatError, match=message):
        qadv.create("dataset", "mnist", data_dir=tmp_path)


def test_only_the_arrays_that_are_named_are_read(tmp_path):
    """One more, which can't be read and would take 4 GB, costs nothing."""
    path = tmp_path / "mnist.npz"
    np.savez(path, **pair("train"), **pair("test"))
    expected = qadv.create("dataset", "mnist", data_dir=tmp_path).digest()
    with zipfile.ZipFile(path, "a") as archive, archive.open("extra.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**32,)})
    tracemalloc.start()
    try:
        assert qadv.create("dataset", "mnist", data_dir=tmp_path).digest() == expected
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_an_array_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    path = tmp_path / "mnist.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x_train.npy", "w") as file:
        shape = (2**32, 1, 28, 28)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match="x_train does not hold the values that its header says"):
            qadv.create("dataset", "mnist", data_dir=tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_in_an_archive_is_noticed(save, tmp_path):
    path = tmp_path / "mnist.npz"
    draw = np.random.default_rng(0)
    save(path, **pair("test"), x_train=draw.integers(0, 256, (2, 1, 28, 28), dtype=np.uint8), y_train=np.arange(2))
    content = bytearray(path.read_bytes())
    content[content.index(b"x_train") + 600] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"is not a whole \.npz file"):
        qadv.create("dataset", "mnist", data_dir=tmp_path)


def test_pickled_arrays_are_not_opened(tmp_path):
    np.savez(tmp_path / "mnist.npz", x_train=np.array([object()], dtype=object), y_train=np.zeros(1, np.uint8))
    with pytest.raises(FileFormatError, match="allow_pickle"):
        qadv.create("dataset", "mnist", data_dir=tmp_path)


def test_svhn(tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)  # N, height, width, channels
    for part in ("train", "test"):
        y = np.array([[10], [1], [9]], dtype=np.uint8)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": x.transpose(1, 2, 3, 0), "y": y})
    data = qadv.create("dataset", "svhn", data_dir=tmp_path)
    assert data.x_train.shape == data.x_test.shape == (3, 3, 32, 32)
    assert data.x_train[2, 1, 5, 7] == np.float32(x[2, 5, 7, 1]) / np.float32(255)
    assert data.y_test.tolist() == [0, 1, 9], "10 stands for the digit 0"

    (tmp_path / "test_32x32.mat").write_bytes(b"no such file")
    with pytest.raises(FileFormatError, match=r"test_32x32.mat is not a .mat file with X and y"):
        qadv.create("dataset", "svhn", data_dir=tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(StorageError, match=r"svhn: there is no file .*test_32x32.mat"):
        qadv.create("dataset", "svhn", data_dir=tmp_path)


def test_cifar100(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    labels = np.array([[4, 99], [0, 7]], dtype=np.uint8)  # coarse, fine
    records = np.concatenate([labels, x.reshape(2, -1)], axis=1)
    for part in ("train", "test"):
        records.tofile(folder / f"{part}.bin")
    (folder / "fine_label_names.txt").write_text("\n".join(f"class_{n}" for n in range(100)) + "\n")
    data = qadv.create("dataset", "cifar100", data_dir=tmp_path)
    assert np.array_equal(data.x_train, x.astype(np.float32) / np.float32(255))
    assert data.y_train.tolist() == [99, 7]
    assert len(data.classes) == 100
    assert data.classes[7] == "class_7"

    (folder / "train.bin").write_bytes(b"\0" * 3000)
    with pytest.raises(FileFormatError, match=r"expected records of 3074 bytes, got a file of 3000 bytes"):
        qadv.create("dataset", "cifar100", data_dir=tmp_path)
    (folder / "fine_label_names.txt").write_text("apple bear")
    records.tofile(folder / "train.bin")
    with pytest.raises(FileFormatError, match=r"whole numbers from 0 to 1, got 2 others, as 99"):
        qadv.create("dataset", "cifar100", data_dir=tmp_path)
    (folder / "test.bin").unlink()
    with pytest.raises(StorageError, match=r"cifar100: there is no file .*test.bin"):
        qadv.create("dataset", "cifar100", data_dir=tmp_path)


@pytest.mark.parametrize("wrong", [250, -3, 1.7, np.nan])
def test_labels_that_are_no_classes_are_refused(wrong, tmp_path):
    x, y = np.zeros((3, 1, 28, 28), np.uint8), np.array([0, 9, wrong])
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(FileFormatError, match=f"mnist.npz: .*whole numbers from 0 to 9, got 1 others, as {wrong}"):
        qadv.create("dataset", "mnist", data_dir=tmp_path)
    images = np.zeros((3, 1, 2, 2), np.float32)
    with pytest.raises(InvalidInputError, match=f"'own', y_test: .*got 1 others, as {wrong}"):
        Images("own", images, np.arange(3), images, y, tuple("0123456789"))


def test_svhn_has_labels_from_1_to_10(tmp_path):
    from scipy.io import savemat

    for part, wrong in (("train", 250), ("test", 0)):
        x = np.zeros((32, 32, 3, 2), np.uint8)
        savemat(tmp_path / "train_32x32.mat", {"X": x, "y": np.array([[10], [wrong if part == "train" else 1]])})
        savemat(tmp_path / "test_32x32.mat", {"X": x, "y": np.array([[10], [wrong]])})
        with pytest.raises(FileFormatError, match=f"{part}_32x32.mat: expected labels"):
            qadv.create("dataset", "svhn", data_dir=tmp_path)


def test_images_and_labels_belong_together():
    images = np.zeros((3, 1, 2, 2), np.float32)
    with pytest.raises(InvalidInputError, match="'own': 3 images and 2 labels, train"):
        Images("own", images, np.arange(2), images, np.arange(3), tuple("012"))
