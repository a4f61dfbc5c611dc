"""Saved classifiers come back the same; damaged and foreign files are refused; nothing is unpickled."""

import errno
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.backbones import create_backbone
from qadv.errors import FileFormatError, InvalidInputError, StorageError
from qadv.files import read_tensors, write_atomically, write_tensors
from tests.blur import Blur


@pytest.mark.parametrize(
    ("weights", "activations", "options"),
    [
        ("int:4", "relu6:4", {}),
        ("bwn", "relu1:1", {"preprocessing": (0.3, 0.5), "clip_values": (0, 1)}),
        ({"*": "int:4", "12": "int:8"}, "float", {}),
        ("float", "float", {}),
    ],
)
def test_a_classifier_comes_back_the_same(weights, activations, options, make_classifier, digits, tmp_path):
    classifier = make_classifier(weights, activations, **options)
    classifier.save("net.safetensors", tmp_path)
    again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    x, y = digits.x_test[:16], digits.y_test[:16]
    np.testing.assert_array_equal(again.predict(x), classifier.predict(x))
    np.testing.assert_array_equal(again.loss_gradient(x, y), classifier.loss_gradient(x, y))
    assert repr(again) == repr(classifier)
    assert os.listdir(tmp_path) == ["net.safetensors"]


def own_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))


def test_a_network_of_the_users_own_is_rebuilt_from_the_float_one(tmp_path, digits):
    torch.manual_seed(0)
    path = tmp_path / "own.safetensors"
    classifier = qadv.QuantizedClassifier(qadv.quantize(own_network(), "twn"), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    classifier.save(path)
    with pytest.raises(InvalidInputError, match=r"pass the float one: load\(path, model=net\)"):
        qadv.QuantizedClassifier.load(path)
    again = qadv.QuantizedClassifier.load(path, model=own_network())
    np.testing.assert_array_equal(again.predict(digits.x_test), classifier.predict(digits.x_test))
    with pytest.raises(FileFormatError, match="does not fit Sequential"):
        qadv.QuantizedClassifier.load(
            path, model=nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        )


def test_what_the_file_cannot_hold_is_asked_for(tmp_path, make_classifier):
    smoothing = Blur()
    make_classifier(preprocessing_defences=smoothing).save(tmp_path / "a.safetensors")
    with pytest.raises(InvalidInputError, match="saved with the defences Blur"):
        qadv.QuantizedClassifier.load(tmp_path / "a.safetensors")
    assert qadv.QuantizedClassifier.load(tmp_path / "a.safetensors", preprocessing_defences=smoothing)

    odd = make_classifier(preprocessing=smoothing)
    assert "Blur" in repr(odd)
    with pytest.raises(InvalidInputError, match="preprocessing by Blur can't be saved"):
        odd.save(tmp_path / "c.safetensors")

    make_classifier(loss=nn.CrossEntropyLoss(label_smoothing=0.1)).save(tmp_path / "b.safetensors")
    with pytest.raises(InvalidInputError, match="a loss of its own"):
        qadv.QuantizedClassifier.load(tmp_path / "b.safetensors")
    assert qadv.QuantizedClassifier.load(tmp_path / "b.safetensors", loss=nn.CrossEntropyLoss())


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_files_are_refused(keep, tmp_path, make_classifier):
    path = tmp_path / "net.safetensors"
    make_classifier().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(FileFormatError, match="is not a whole safetensors file"):
        qadv.QuantizedClassifier.load(path)


def test_foreign_files_are_refused_and_pickles_never_opened(tmp_path, make_classifier):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (tmp_path / "net.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileFormatError, match="pickled"):
        qadv.QuantizedClassifier.load(tmp_path / "net.pt")
    assert not (tmp_path / "exploded").exists()

    from safetensors.torch import save_file

    save_file(make_classifier().model.state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(FileFormatError, match=r"plain float weights go in with from_backbone\(..., checkpoint_path"):
        qadv.QuantizedClassifier.load(tmp_path / "plain.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", {"qadv": "[3]"})
    save_file({"a": torch.zeros(1)}, tmp_path / "half.safetensors", {"qadv": '{"format": "qadv-classifier/1"}'})
    for name in ("odd", "half"):
        with pytest.raises(FileFormatError, match=r"expected a file that QuantizedClassifier\.save wrote"):
            qadv.QuantizedClassifier.load(tmp_path / f"{name}.safetensors")
    make_classifier().save(tmp_path / "good.safetensors")
    with pytest.raises(InvalidInputError, match="unexpected keyword argument 'nope'"):
        qadv.QuantizedClassifier.load(tmp_path / "good.safetensors", nope=1)
    with pytest.raises(StorageError, match="there is no file"):
        qadv.QuantizedClassifier.load(tmp_path / "nothing.safetensors")


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path, make_classifier, monkeypatch):
    path = tmp_path / "net.safetensors"
    make_classifier(seed=0).save(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device; what was saved there before is untouched"):
        make_classifier(seed=1).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not write"):
        write_atomically(tmp_path / "file" / "below", b"x")


def test_loading_does_not_look_where_the_weights_once_came_from(tmp_path):
    """timm's options for that may name files that are gone, or a hub."""
    net = create_backbone("resnet10t", pretrained_cfg_overlay={"file": "gone.safetensors"})
    net.qadv_backbone["options"].update(pretrained=True, checkpoint_path="gone.pth", pretrained_cfg="a1_in1k")
    net.qadv_backbone["options"]["cache_dir"] = "nowhere"  # an option of timm 1.0.13 and newer
    classifier = qadv.QuantizedClassifier(qadv.quantize(net), nn.CrossEntropyLoss(), (3, 32, 32), 10)
    classifier.save(tmp_path / "net.safetensors")
    x = np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32)
    again = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(again.predict(x), classifier.predict(x))


def test_a_header_nested_too_deep(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "deep", {"qadv": "[" * 100_000})
    with pytest.raises(FileFormatError, match="header is damaged"):
        qadv.QuantizedClassifier.load(tmp_path / "deep")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(value, make_classifier, tmp_path):
    good, path = make_classifier(), tmp_path / "net.safetensors"
    good.save(path)
    tensors, header = read_tensors(path)
    name = next(name for name, _ in good.model.named_parameters())
    tensors[name].view(-1)[0] = value
    write_tensors(path, tensors, header)
    with pytest.raises(FileFormatError, match=f"net.safetensors: NaN or infinite values in {name}"):
        qadv.QuantizedClassifier.load(path)
    bad = make_classifier()
    bad.model.get_parameter(name).data.view(-1)[0] = value
    for write in (bad.save, lambda path: qadv.export(bad, path)):
        with pytest.raises(InvalidInputError, match=f"NaN or infinite values in {name}"):
            write(tmp_path / "bad.safetensors")
    assert not (tmp_path / "bad.safetensors").exists()


def test_weights_in_a_packed_file_are_finite(make_classifier, tmp_path):
    path = tmp_path / "net.packed.safetensors"
    qadv.export(make_classifier(), path)
    tensors, header = read_tensors(path)
    name = next(name for name in tensors if name.endswith(".weight"))  # of the first layer, which is not quantized
    tensors[name].view(-1)[0] = np.nan
    write_tensors(path, tensors, header)
    with pytest.raises(FileFormatError, match=f"NaN or infinite values in {name}"):
        qadv.QuantizedClassifier.load(path)
