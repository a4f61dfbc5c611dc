"""`open_classifier`: by name, from a file, or made by a function; what is none of these is named."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.errors import FileFormatError, InvalidInputError, QadvError, UnknownNameError

MINE = """
import qadv
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

def classifier():
    return qadv.QuantizedClassifier(net(), nn.CrossEntropyLoss(), (1, 8, 8), 10)

def broken():
    raise ValueError("no such thing")

def number():
    return 3
"""
OF_DIGITS = {"nb_classes": 10, "input_shape": (1, 8, 8)}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_for_qadv.py").write_text(MINE)
    yield "mine_for_qadv"
    sys.modules.pop("mine_for_qadv", None)


def test_by_name_with_options_and_weights(make_classifier, digits, tmp_path):
    trained = make_classifier("float", "float")
    torch.save(trained.network.state_dict(), tmp_path / "net.pth")
    opened = qadv.open_classifier("mnist-cnn:image_size=8, width=8", tmp_path / "net.pth", **OF_DIGITS)
    np.testing.assert_array_equal(opened.predict(digits.x_test[:4]), trained.predict(digits.x_test[:4]))


def test_timms_networks_have_timms_range_and_size():
    opened = qadv.open_classifier("resnet10t", nb_classes=3)
    assert opened.input_shape == (3, 176, 176)
    np.testing.assert_allclose(opened.preprocessing.mean, [0.485, 0.456, 0.406], rtol=1e-6)
    given = qadv.open_classifier("resnet10t", nb_classes=3, input_shape=(3, 32, 32), preprocessing=(0.5, 0.5))
    assert (given.input_shape, float(given.preprocessing.mean)) == ((3, 32, 32), 0.5)


def test_from_a_file_with_a_name_or_path(trained, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained.save("net.safetensors")
    trained.save("without-suffix")
    for given in ("net.safetensors", tmp_path / "net.safetensors", "without-suffix"):
        assert (qadv.open_classifier(given).predict(digits.x_test[:4]) == trained.predict(digits.x_test[:4])).all()


def test_a_function_of_the_working_directory(mine, digits):
    path = list(sys.path)
    opened = qadv.open_classifier(f"{mine}:net", **OF_DIGITS)
    assert sys.path == path
    assert isinstance(qadv.open_classifier(f"{mine}:classifier"), qadv.QuantizedClassifier)
    quantized = qadv.PostTrainingQuantization(opened, "int:4", "relu6:4", skip_first_last=False)()
    quantized.save("net.safetensors")  # its weights; the code stays with the function
    again = qadv.open_classifier(f"{mine}:net", checkpoint="net.safetensors")
    np.testing.assert_array_equal(again.predict(digits.x_test[:4]), quantized.predict(digits.x_test[:4]))
    with pytest.raises(InvalidInputError, match=r"MODULE:FUNCTION --checkpoint FILE"):
        qadv.open_classifier("net.safetensors")


def test_studies_run_no_function(mine):
    with pytest.raises(QadvError, match=f"no backbone '{mine}:net'"):
        qadv.QuantizedClassifier.from_backbone(f"{mine}:net")


def test_what_can_not_be_opened_is_named(mine, trained, tmp_path):
    trained.save("net.safetensors")
    torch.save(trained.network.state_dict(), "net.pth")
    for error, said, *given in [
        (InvalidInputError, "ValueError: no such thing", f"{mine}:broken"),
        (InvalidInputError, "expected a torch.nn.Module or an ART classifier from it, got int", f"{mine}:number"),
        (InvalidInputError, "has no attribute 'none'", f"{mine}:none"),
        (InvalidInputError, "No module named 'nowhere'", "nowhere:net"),
        (InvalidInputError, "does not say its nb_classes; give it", f"{mine}:net"),
        (InvalidInputError, "net.safetensors has weights of its own", "net.safetensors", "net.pth"),
        (InvalidInputError, "name the network, and give the file as its checkpoint", "net.pth"),
        (InvalidInputError, "unexpected keyword argument 'image_sze'", "mnist-cnn:image_sze=8"),
        (InvalidInputError, "expected NAME or NAME:option=value", "mnist-cnn:8"),
        (InvalidInputError, "expected a torch.nn.Module from it", f"{mine}:classifier", "net.pth"),
        (UnknownNameError, "there is no file resnet10, and no backbone 'resnet10'; did you mean", "resnet10"),
        (FileFormatError, "does not fit", "resnet10t", "net.pth"),
        (QadvError, "there is no file gone.safetensors", "gone.safetensors"),
        (QadvError, "there is no file", str(tmp_path / "gone")),
    ]:
        with pytest.raises(error, match=said):
            qadv.open_classifier(*given)
    with pytest.raises(InvalidInputError, match="Sequential: it does not say its nb_classes"):
        qadv.open_classifier(nn.Sequential(nn.Flatten()))
