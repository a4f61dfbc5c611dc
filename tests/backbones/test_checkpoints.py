"""State dicts of `torch.save` are read without running anything, in the forms that trainings leave them in."""

import argparse
import os
import pickle

import pytest
import torch
from torch import nn

import qadv
from qadv.backbones import checkpoints
from qadv.backbones.float_weights import load_float_weights
from qadv.errors import FileFormatError, StorageError
from qadv.estimators.opening import open_classifier


def network(inside=8):
    return nn.Sequential(nn.Conv2d(1, inside, 3), nn.BatchNorm2d(inside), nn.Flatten(), nn.Linear(inside * 36, 2))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}},
        lambda state: {"model_ema": {"n_averaged": torch.tensor(3)} | {f"module.{n}": t for n, t in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
    ],
)
def test_weights_are_found_wherever_a_training_put_them(wrapped, tmp_path):
    trained, fresh = network(), network()
    torch.save(wrapped(trained.state_dict()), tmp_path / "net.pth")
    load_float_weights(fresh, tmp_path / "net.pth")
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), fresh.parameters(), strict=True))


def test_averaged_weights_beside_the_others_are_named(tmp_path):
    trained, fresh = network(), network()
    torch.save({"state_dict": trained.state_dict(), "state_dict_ema": fresh.state_dict()}, tmp_path / "net.pth")
    with pytest.warns(
        UserWarning, match="net.pth: state_dict is taken, and not the averaged weights in state_dict_ema"
    ):
        load_float_weights(fresh, tmp_path / "net.pth")
    assert torch.equal(trained[0].weight, fresh[0].weight)


def test_a_first_name_that_the_network_has_too_stays(tmp_path):
    trained, fresh = (nn.ModuleDict({"module": network()}) for _ in range(2))
    torch.save(trained.state_dict(), tmp_path / "net.pth")
    load_float_weights(fresh, tmp_path / "net.pth")
    assert torch.equal(trained["module"][0].weight, fresh["module"][0].weight)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_state_dict_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": network().state_dict(), "more": Bomb()}, "bomb.pth")
    (tmp_path / "pickled.pth").write_bytes(pickle.dumps(Bomb()))
    torch.save(network(), "whole.pth")
    torch.save([1, 2], "list.pth")
    torch.save({"epoch": 1}, "empty.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "list.pth").read_bytes()[:50])
    torch.save(network(4).state_dict(), "other.pth")
    for name, said in {
        "bomb": "holds .*mkdir, whose code would run: save torch.save",
        "pickled": "pickled.pth holds .*mkdir|pickled.pth is damaged, or no file of torch.save",
        "whole": r"holds torch\.nn\..*Sequential, whose code would run",
        "list": "expected a state dict.*found list",
        "empty": "found the keys epoch",
        "torn": "damaged, or no file of torch.save",
        "other": r"shapes differ: 0\.weight is \(4, 1, 3, 3\), expected \(8, 1, 3, 3\)",
    }.items():
        with pytest.raises(FileFormatError, match=said) as refused:
            load_float_weights(network(), f"{name}.pth")
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 400
    with pytest.raises(StorageError, match="there is no file"):
        load_float_weights(network(), "none.pth")
    assert not (tmp_path / "exploded").exists()


def test_files_of_an_old_torch_are_refused_where_reading_them_may_run_code(tmp_path, monkeypatch):
    torch.save(network().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    monkeypatch.setattr(checkpoints, "reads_old_files_safely", lambda: False)
    with pytest.raises(FileFormatError, match=r"need torch 2\.6 to be read safely"):
        load_float_weights(network(), tmp_path / "old.pth")


def test_a_backbone_takes_them_by_name(tmp_path):
    options = {"input_shape": (1, 8, 8), "image_size": 8, "width": 8}
    trained = qadv.QuantizedClassifier.from_backbone("mnist-cnn", "float", "float", **options)
    torch.save(trained.network.state_dict(), tmp_path / "net.pth")
    made = qadv.QuantizedClassifier.from_backbone("mnist-cnn", checkpoint_path=tmp_path / "net.pth", **options)
    assert torch.equal(made.network.state_dict()["0.weight"], trained.network.state_dict()["0.weight"])


def test_programs_are_no_weights(tmp_path):
    net = nn.Sequential(nn.Linear(3, 2)).eval()
    torch.jit.save(torch.jit.script(net), tmp_path / "script.pt")
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3),)), tmp_path / "program.pt2")
    for file, kind in (("script.pt", "a TorchScript file"), ("program.pt2", "a torch.export program")):
        with pytest.raises(FileFormatError, match=rf"{file} is {kind}, whose code would run; give an ONNX file"):
            open_classifier(tmp_path / file)
    with pytest.raises(FileFormatError, match="a TorchScript file"):
        load_float_weights(net, tmp_path / "script.pt")
