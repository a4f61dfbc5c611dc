"""The results' folder: whole files or none, one bench at a time."""

import pytest

from qadv.benchmark.cells import Finished
from qadv.benchmark.store import Store
from qadv.errors import FileFormatError, InvalidInputError, StorageError


def test_a_cell_is_written_whole_and_read_again(tmp_path):
    store = Store(tmp_path)
    with store.locked():
        assert not store.is_finished("k")
        store.write("k", Finished({"a": 1}, {"f.bin": b"\0\1"}))
    assert store.is_finished("k")
    assert store.read("k") == Finished({"a": 1}, {"f.bin": b"\0\1"})
    assert store.read("k", files=False).files == {}


def test_what_a_killed_bench_left_is_no_cell(tmp_path):
    store = Store(tmp_path)
    with store.locked():
        (store.cells / ".k.123").mkdir()
        (store.cells / ".k.123" / "record.json").write_text("{")
    assert not store.is_finished("k")
    with store.locked():
        assert not list(store.cells.iterdir())


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    with store.locked():

        def fail(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fail)
        with pytest.raises(StorageError, match="No space left"):
            store.write("k", Finished({}, {"f": b"1"}))
        assert not list(store.cells.iterdir())


def test_a_second_bench_is_refused(tmp_path):
    with Store(tmp_path).locked(), pytest.raises(InvalidInputError, match="another bench"), Store(tmp_path).locked():
        pass
    with Store(tmp_path).locked():
        pass


def test_a_damaged_cell_says_what_to_do(tmp_path):
    store = Store(tmp_path)
    with store.locked():
        store.write("k", Finished({"a": 1}))
    (store.cells / "k" / "record.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"cell k is damaged: .*record\.json is damaged.*computes it again"):
        store.read("k")


def test_a_failure_is_forgotten_when_the_cell_is_there(tmp_path):
    store = Store(tmp_path)
    with store.locked():
        store.write_failure("k", "label", "message", "trace")
        assert store.failure("k") == {"label": "label", "message": "message", "traceback": "trace"}
        store.write("k", Finished({}))
        assert store.failure("k") is None


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't write in"), Store(tmp_path / "file" / "sub").locked():
        pass
