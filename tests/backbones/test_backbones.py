"""The built-in networks: shapes, sizes, and the trained ResNet-20 to the last image."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import qadv
from qadv.backbones import create_backbone
from qadv.backbones.aggregation import ConvexSum
from qadv.errors import FileFormatError, InvalidInputError, StorageError, UnknownNameError
from tests.conftest import MEAN_STD


@pytest.mark.parametrize(
    ("name", "options", "shape", "parameters"),
    [
        ("resnet20", {}, (3, 32, 32), 269_722),
        ("wide-resnet", {"depth": 16, "width": 4}, (3, 32, 32), 2_748_890),
        ("vgg16", {}, (3, 32, 32), 14_724_042),
        ("mnist-cnn", {"in_channels": 1}, (1, 28, 28), 421_994),
        ("lowbit-convnet", {}, (3, 32, 32), 14_029_706),
        ("timm/resnet18", {}, (3, 32, 32), 11_181_642),
        ("mobilenetv2_050.lamb_in1k", {}, (3, 32, 32), 700_490),
        ("small-image-resnet", {}, (3, 32, 32), 11_173_962),
    ],
)
def test_shape_and_size(name, options, shape, parameters):
    model = create_backbone(name, nb_classes=10, **options).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_wide_resnet_28_10_has_the_papers_size():
    with torch.device("meta"):
        model = create_backbone("wide-resnet", depth=28, width=10)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(36.5e6, rel=0.002)


def test_wrong_options_are_explained():
    with pytest.raises(InvalidInputError, match=r"depth: expected 6n \+ 4"):
        create_backbone("wide-resnet", depth=20)
    with pytest.raises(InvalidInputError, match="aggregation: expected one of sum, convex, got 'mean'"):
        create_backbone("resnet20", aggregation="mean")
    with pytest.raises(InvalidInputError, match="unexpected keyword argument 'depht'"):
        create_backbone("wide-resnet", depht=28)
    with pytest.raises(InvalidInputError, match="plain JSON values"):
        create_backbone("resnet20", aggregation=torch.nn.ReLU())
    with pytest.raises(InvalidInputError, match=r"model: expected one of resnet18, .*got 'resnet81'"):
        create_backbone("small-image-resnet", model="resnet81")
    with pytest.raises(UnknownNameError, match="did you mean"):
        create_backbone("resnett20")


@pytest.mark.parametrize("point", [(0.3, 0.9), (-0.5, 0.2), (2.0, 0.1), (0.1, 3.0), (-1.0, -2.0), (0.5, 0.5)])
def test_convex_coefficients_are_projected_on_the_simplex(point):
    aggregation = ConvexSum()
    with torch.no_grad():
        aggregation.coefficients.copy_(torch.tensor(point))
    aggregation.after_step()
    nearest = minimize(
        lambda p: ((p - np.array(point)) ** 2).sum(),
        [0.5, 0.5],
        bounds=[(0, 1), (0, 1)],
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        tol=1e-12,
    ).x
    np.testing.assert_allclose(aggregation.coefficients.detach().numpy(), nearest, atol=1e-5)


def test_convex_sum_is_a_convex_sum():
    aggregation = ConvexSum()
    shortcut, branch = torch.rand(2, 3), torch.rand(2, 3)
    torch.testing.assert_close(aggregation(shortcut, branch), (shortcut + branch) / 2)


@pytest.mark.data
def test_the_trained_resnet20_has_its_accuracy(data_dir):
    """91.73 % of the test images; of the first 300 it gets 26 wrong, and none by a margin below 0.2."""
    with np.load(data_dir / "cifar10-test.npz") as test:
        x, y = test["x_test"][:300].astype(np.float32) / 255, test["y_test"][:300]
    classifier = qadv.QuantizedClassifier.from_backbone(
        "resnet20",
        weights="float",
        activations="float",
        checkpoint_path=data_dir / "resnet20-cifar10.safetensors",
        preprocessing=MEAN_STD,
    )
    assert (classifier.predict(x).argmax(1) == y).sum() == 274


def test_foreign_weights_are_refused_with_the_differences(tmp_path):
    from safetensors.torch import save_file

    state = create_backbone("resnet20").state_dict()
    state.pop("conv1.weight")
    state["extra"] = torch.zeros(1)
    state["linear.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "foreign.safetensors")
    with pytest.raises(
        FileFormatError, match=r"missing: conv1.weight.*unknown: extra.*linear.bias is \(7,\), expected \(10,\)"
    ):
        qadv.QuantizedClassifier.from_backbone("resnet20", checkpoint_path=tmp_path / "foreign.safetensors")
    with pytest.raises(StorageError, match="there is no file"):
        qadv.QuantizedClassifier.from_backbone("resnet20", checkpoint_path=tmp_path / "nothing.safetensors")
