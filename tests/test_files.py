"""Files with a digest: what is damaged is refused, what an older qadv wrote is read, and says so."""

import io
import json

import pytest
import torch
from safetensors.torch import save_file

from qadv.digests import digest_of
from qadv.errors import FileFormatError, StorageError
from qadv.files import InMemory, read_json, read_tensors, write_json, write_tensors

TENSORS = {"a": torch.arange(600_000.0), "b": torch.tensor([1, 2])}
HEADER = {"format": "qadv-classifier/2", "n": [1, {"x": None}]}


@pytest.fixture
def saved(tmp_path):
    write_tensors(tmp_path / "x", TENSORS, HEADER)
    return tmp_path / "x"


def flipped(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return path


def test_tensors_and_header_come_back(saved):
    for source in (saved, InMemory("cell 1", saved.read_bytes())):
        tensors, header = read_tensors(source)
        assert header == HEADER
        assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
        assert tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize("place", [-1, -8, 1_000_000, 2_000_000])
def test_a_flipped_bit_in_the_values_is_noticed(saved, place):
    content = bytearray(saved.read_bytes())
    content[place] ^= 1
    with pytest.raises(FileFormatError, match="its digest does not match"):
        read_tensors(flipped(saved, place))
    with pytest.raises(FileFormatError, match=r"^cell 1 is damaged: its digest"):
        read_tensors(InMemory("cell 1", bytes(content)))


def format_of(path):
    """What a reader is told of a file: its format, or that it is damaged."""
    try:
        return (read_tensors(path)[1] or {}).get("format")
    except FileFormatError:
        return "damaged"


def test_a_flipped_bit_in_the_header_is_noticed(saved):
    content = saved.read_bytes()
    for place in range(content.index(b"sha256"), content.index(b'"dtype"'), 5):
        saved.write_bytes(content)
        assert format_of(flipped(saved, place)) in ("damaged", None)


def test_the_digest_can_not_be_left_out(tmp_path):
    save_file(TENSORS, tmp_path / "x", {"qadv": json.dumps(HEADER)})
    with pytest.raises(FileFormatError, match="its digest is missing"):
        read_tensors(tmp_path / "x")


def test_a_file_of_the_first_format_is_read_and_says_so(tmp_path):
    save_file(TENSORS, tmp_path / "x", {"qadv": json.dumps({**HEADER, "format": "qadv-classifier/1"})})
    with pytest.warns(UserWarning, match=r"x is of format 1, which has no digest") as caught:
        tensors, header = read_tensors(tmp_path / "x")
    assert len(caught) == 1
    assert header == HEADER
    assert torch.equal(tensors["a"], TENSORS["a"])


def test_a_digest_counts_in_the_first_format_too(saved):
    content = saved.read_bytes()
    saved.write_bytes(content.replace(b"classifier/2", b"classifier/1"))
    with pytest.raises(FileFormatError, match="does not match"):
        read_tensors(saved)


def test_the_digest_does_not_depend_on_where_blocks_of_the_file_end():
    own = "ab" * 32
    for before in (0, 1, 2**20 - 64, 2**20 - 63, 2**20 - 1, 2**20, 2**21 - 10):
        content = b"x" * before + own.encode() + b"y" * 2**20
        assert digest_of(io.BytesIO(content), own) == digest_of(io.BytesIO(content.replace(own.encode(), b"0" * 64)))
        assert digest_of(io.BytesIO(content), own) != digest_of(io.BytesIO(content))


def test_json_with_a_digest(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"format": "qadv-plan/2", "text": "ä\ud800", "n": 1})
    assert read_json(path) == {"format": "qadv-plan/2", "text": "ä\ud800", "n": 1}
    path.write_bytes(path.read_bytes().replace(b'"n": 1', b'"n": 2'))
    with pytest.raises(FileFormatError, match="does not match"):
        read_json(path)
    for content in (b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"x\.json is damaged"):
            read_json(path)
    with pytest.raises(StorageError, match="there is no file"):
        read_json(tmp_path)
