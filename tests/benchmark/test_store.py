"""The results' folder: whole files or none, one bench at a time."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save

from qadv.benchmark.cells import Finished, digest
from qadv.benchmark.store import LeftOutError, Store
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


DAMAGE = {
    "a record that is gone": lambda cell: (cell / "record.json").unlink(),
    "an empty record": lambda cell: (cell / "record.json").write_bytes(b""),
    "a file that is gone": lambda cell: (cell / "f").unlink(),
    "an empty file": lambda cell: (cell / "f").write_bytes(b""),
    "a file that is cut off": lambda cell: (cell / "f").write_bytes(b"12"),
    "another bit": lambda cell: (cell / "f").write_bytes(b"1233"),
    "another number": lambda cell: (cell / "record.json").write_text(
        (cell / "record.json").read_text().replace('"a": 1', '"a": 2')
    ),
    "a folder in place of a file": lambda cell: ((cell / "f").unlink(), (cell / "f").mkdir()),
    "a file in place of the folder": lambda cell: (shutil.rmtree(cell), cell.write_bytes(b"")),
    "another cell's folder": lambda cell: (shutil.rmtree(cell), shutil.copytree(cell.with_name("other"), cell)),
    "another cell's record": lambda cell: shutil.copy(cell.with_name("other") / "record.json", cell),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_cell_is_noticed_and_written_again(what, tmp_path):
    whole = Finished({"a": 1}, {"f": b"1234"})
    with Store(tmp_path).locked():
        Store(tmp_path).write("k", whole)
        Store(tmp_path).write("other", Finished({"a": 1}, {"f": b"1234"}))
    DAMAGE[what](tmp_path / "cells" / "k")
    store = Store(tmp_path)
    assert not store.is_finished("k")
    assert "cell k is damaged" in store.damage("k")
    with pytest.raises(FileFormatError, match="cell k is damaged"):
        store.read("k")
    store.write("k", whole)
    assert Store(tmp_path).read("k") == whole
    assert sorted(path.name for path in store.cells.iterdir()) == ["k", "other"]


def test_a_cell_that_was_whole_and_is_damaged_later(tmp_path):
    store = Store(tmp_path)
    with store.locked():
        store.write("k", Finished({}, {"f": b"1234"}))
    assert store.is_finished("k")
    (store.cells / "k" / "f").unlink()
    with pytest.raises(FileFormatError):
        store.read("k")
    assert not store.is_finished("k")
    assert store.damage("absent") is None


def test_a_copy_of_records_is_finished_without_its_files(tmp_path):
    store, copy = Store(tmp_path / "whole"), Store(tmp_path / "copy")
    with store.locked():
        store.write("net", Finished({"a": 1}, {"f": b"1234"}))
        store.write("plain", Finished({"b": 2}))
        store.write_plan("study", {"cells": [{"key": key} for key in ("net", "plain", "missing")]})
    store.copy_records(copy, ["study"])
    assert copy.plan("study") == store.plan("study")
    assert [copy.damage(key) for key in ("net", "plain", "missing")] == ["", "", None]
    assert copy.read("net", files=False).record == {"a": 1}
    assert copy.read("plain") == Finished({"b": 2})
    with pytest.raises(LeftOutError, match="of cell net there is the record, without f"):
        copy.read("net")
    with copy.locked():
        copy.write("net", Finished({"a": 1}, {"f": b"1234"}))
    assert copy.read("net").files == {"f": b"1234"}
    path = copy.cells / "plain" / "record.json.gz"
    for content in (path.read_bytes()[:-9], b"", b"{}"):
        path.write_bytes(content)
        assert "cell plain is damaged" in Store(copy.folder).damage("plain")


def test_a_copy_of_records_has_the_networks_that_missing_cells_start_from(tmp_path):
    store, copy = Store(tmp_path / "whole"), Store(tmp_path / "copy")
    needs = {
        "start": [],
        "tuned": ["start"],
        "attack": ["tuned"],
        "other": [],
        "of other": ["other"],
        "end": ["of other"],
    }
    kinds = {name: "attack" if name in ("attack", "end") else "network" for name in needs}
    cells = [{"key": name, "kind": kinds[name], "needs": needs[name]} for name in needs]
    with store.locked():
        for name in needs.keys() - {"attack"}:
            store.write(name, Finished({"of": name}, {"f": name.encode()}))
        store.write_plan("study", {"cells": cells})
    for _ in range(2):
        store.copy_records(copy, ["study"])
        assert copy.read("start") == store.read("start")
        for name in ("tuned", "other", "of other"):
            with pytest.raises(LeftOutError):
                copy.read(name)
    once_more = Store(tmp_path / "once more")
    copy.copy_records(once_more, ["study"])
    assert once_more.read("start") == store.read("start")


def write_old(store, spec, files):
    """Writes a cell as the first format had it: no digests, the record as it is."""
    folder = store.cells / digest(spec)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"spec": spec, "a": 1}))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_cells_of_the_first_format_are_read_and_say_so_once(tmp_path):
    store, content = Store(tmp_path), save({"images": np.zeros(3)})
    folder = write_old(store, {"kind": "attack", "n": 1}, {"adversarial.safetensors": content})
    other = write_old(store, {"kind": "clean", "n": 2}, {})
    with pytest.warns(UserWarning, match="cells of an older qadv, without digests") as caught:
        found = [store.read(cell.name) for cell in (folder, other)]
    assert found[0].files == {"adversarial.safetensors": content}
    assert [each.record["a"] for each in found] == [1, 1]
    assert len(caught) == 1
    copy = Store(tmp_path / "copy")
    with store.locked():
        store.write_plan("study", {"cells": [{"key": folder.name}]})
    store.copy_records(copy, ["study"])
    with pytest.warns(UserWarning, match="without digests"):
        assert copy.read(folder.name, files=False).record["a"] == 1
    for damage in (content[:-1], b"", None):
        path = folder / "adversarial.safetensors"
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(FileFormatError, match=r"cell .* is damaged: .*adversarial\.safetensors"):
            Store(tmp_path).read(folder.name)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    with pytest.raises(FileFormatError, match="is not the record of this cell"):
        Store(tmp_path).read(folder.name)


def test_damaged_notes_and_plans(tmp_path):
    store = Store(tmp_path)
    with store.locked():
        store.write_failure("k", "label", "message", "trace")
        store.write_plan("study", {"cells": []})
    for content in (b"", b"[]", b"{}", b"\xff"):
        (store.failures / "k.json").write_bytes(content)
        assert "can't be told" in store.failure("k")["message"]
    for content in (b"", b"[]", b"\xff"):
        (store.studies / "study.json").write_bytes(content)
        with pytest.raises(FileFormatError, match=r"study\.json is damaged .*run its bench again"):
            store.plan("study")


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
