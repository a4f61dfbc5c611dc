"""Saved classifiers come back the same; damaged and foreign files are refused; nothing is unpickled."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.nn.utils import prune

import qadv
from qadv.backbones import create_backbone
from qadv.errors import FileFormatError, InvalidInputError, QadvError, StorageError
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


@pytest.mark.parametrize("schemes", [("float", "float"), ("int:4", "relu6:4")])
@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_network_that_was_changed_is_not_made_again_by_its_name(schemes, when, tmp_path, make_classifier):
    def change(network):
        norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
        norm.eps = 0.5

    network = make_classifier("float", "float").network
    if when == "before":
        change(network)
    network = qadv.quantize(network, *schemes)
    if when == "behind":
        change(network)
    classifier = qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    classifier.save(tmp_path / "net.safetensors")
    with pytest.raises(InvalidInputError, match="was not made by name; pass the float one"):
        qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    same = make_classifier("float", "float").network
    change(same)
    loaded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors", model=same)
    x = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(x), classifier.predict(x))


@pytest.mark.parametrize("schemes", [("float", "float"), ("int:4", "relu6:4")])
def test_a_network_that_computes_the_same_is_made_again_by_its_name(schemes, tmp_path, make_classifier):
    network = freeze_batch_norm_2d(make_classifier("float", "float").network)
    for module in network.modules():
        module.register_full_backward_hook(lambda *_: None).remove()
        if isinstance(module, nn.Linear):
            prune.remove(prune.l1_unstructured(module, "weight", 0.3), "weight")  # which puts it behind the bias
            module.inplace = True
    network.best_accuracy = 0.93
    classifier = qadv.QuantizedClassifier(qadv.quantize(network, *schemes), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    classifier.save(tmp_path / "net.safetensors")
    x = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    loaded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    np.testing.assert_allclose(loaded.predict(x), classifier.predict(x), atol=1e-6)


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
    for name, message in [("odd", r"a file that QuantizedClassifier\.save wrote"), ("half", "the key 'backbone'")]:
        with pytest.raises(FileFormatError, match=f"expected {message}"):
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


def changed(classifier, path, change):
    """Writes a file of a classifier, sound but for what is changed in its header and tensors."""
    classifier.save(path)
    tensors, header = read_tensors(path)
    change(header, tensors)
    write_tensors(path, tensors, header)
    return path


def as_type(dtype):
    return lambda h, t: t.update({"0.weight": t["0.weight"].to(dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (as_type(torch.int8), "0.weight is torch.int8, expected torch.float32"),
        (as_type(torch.bool), "0.weight is torch.bool, expected torch.float32"),
        (as_type(torch.float8_e4m3fn), "0.weight is torch.float8_e4m3fn, expected torch.float32"),
        (lambda h, t: t["0.weight"].view(-1)[3].fill_(np.nan), "NaN or infinite values in 0.weight"),
        (lambda h, t: t["1.running_var"].view(-1)[0].fill_(np.inf), "NaN or infinite values in 1.running_var"),
        (lambda h, t: t.update({"0.weight": torch.zeros(1)}), r"0.weight is \(1,\), expected \(8, 1, 3, 3\)"),
        (lambda h, t: t.pop("0.weight"), "no tensor 0.weight"),
        (lambda h, t: t.update(more=torch.zeros(1)), "1 tensors unknown: more"),
        (lambda h, t: h["classifier"].pop("nb_classes"), "expected the key 'nb_classes' in its header"),
        (lambda h, t: h.pop("loss"), "expected the key 'loss' in its header, found none"),
        (lambda h, t: h["classifier"].update(probabilities="no"), "probabilities: expected true or false, found 'no'"),
        (lambda h, t: h["classifier"].update(input_shape=[1, 10**6, 10**6]), "at most 4,194,304 values"),
        (lambda h, t: h["classifier"].update(nb_classes="ten"), "net.safetensors"),
        (lambda h, t: h["backbone"].update(name="nobody"), "net.safetensors.*no backbone 'nobody'"),
    ],
)
def test_what_is_no_network_of_this_backbone_is_refused(change, message, make_classifier, tmp_path):
    path = changed(make_classifier(), tmp_path / "net.safetensors", change)
    with pytest.raises(QadvError, match=message):
        qadv.QuantizedClassifier.load(path)


@pytest.mark.parametrize(
    ("scheme", "end", "values"),
    [("pwlq:4", "weight_quant.tensor_quant.scale", (-1.0, 0.0)), ("relu:4", "limit", (-1.0, 0.0, np.inf))],
)
def test_stored_scales_that_no_scheme_has_are_refused(scheme, end, values, make_classifier, digits, tmp_path):
    schemes = {"weights": scheme} if "pwlq" in scheme else {"activations": scheme}
    classifier = make_classifier(**schemes, calibration=digits.x_train[:64])
    for value in values:
        path = changed(
            classifier,
            tmp_path / "net.safetensors",
            lambda h, t, value=value: next(t[n] for n in t if n.endswith(end)).view(-1)[0].fill_(value),
        )
        with pytest.raises(FileFormatError, match=r"expected (finite scales|a range) above 0"):
            qadv.QuantizedClassifier.load(path)


def test_filters_of_zeros_have_scales_that_are_allowed(make_classifier, digits, tmp_path):
    for scheme in ("pwlq:4", "bwn", "twn", "int:4"):
        classifier = make_classifier("float", "float")
        with torch.no_grad():
            for name, parameter in classifier.model.named_parameters():
                if name.endswith("weight") and parameter.ndim > 1:
                    parameter[0] = 0
        model = qadv.quantize(classifier.model, scheme, "relu6:4")
        classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
        classifier.save(tmp_path / "net")
        qadv.export(classifier, tmp_path / "packed")
        for path in (tmp_path / "net", tmp_path / "packed"):
            again = qadv.QuantizedClassifier.load(path)
            np.testing.assert_allclose(
                again.predict(digits.x_test[:8]), classifier.predict(digits.x_test[:8]), atol=1e-5
            )


def peak(reset=False):
    """The most memory of this process since the last reset, in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells how much memory a process had")
def test_a_small_file_that_claims_a_large_network_takes_little_memory(make_classifier, tmp_path):
    """The last layer alone would take half a gigabyte; the other network is thousands of layers deep."""
    classifier = make_classifier(width=2)
    large = changed(classifier, tmp_path / "large", lambda h, t: h["backbone"]["options"].update(image_size=8_000))
    deep = {"name": "wide-resnet", "nb_classes": 10, "in_channels": 1, "options": {"depth": 6 * 1000 + 4, "width": 1}}
    endless = changed(classifier, tmp_path / "deep", lambda h, t: h.update(backbone=deep))
    before = peak(reset=True)
    with pytest.raises(FileFormatError, match=r"9.weight is \(8, 16\), expected \(8, 16000000\)"):
        qadv.QuantizedClassifier.load(large)
    with pytest.raises(FileFormatError, match="many more parameters than the file's"):
        qadv.QuantizedClassifier.load(endless)
    assert peak() - before < 300e6


def test_a_classifier_of_the_first_format_is_the_same_function_and_says_so(make_classifier, digits, tmp_path):
    from safetensors.torch import save_file

    classifier = make_classifier()
    classifier.save(tmp_path / "new")
    qadv.export(classifier, tmp_path / "packed")
    for name in ("new", "packed"):
        tensors, header = read_tensors(tmp_path / name)
        header["format"] = header["format"].replace("/2", "/1")
        save_file(tensors, tmp_path / "old", {"qadv": json.dumps(header)})
        with pytest.warns(UserWarning, match="old is of format 1, which has no digest"):
            again = qadv.QuantizedClassifier.load(tmp_path / "old")
        np.testing.assert_array_equal(
            again.predict(digits.x_test[:8]), qadv.QuantizedClassifier.load(tmp_path / name).predict(digits.x_test[:8])
        )
