"""DQ's regulariser against NumPy, and the norms that the history keeps."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from qadv.trainers.orthogonality import Orthogonality, following_batch_norms, orthogonality_error, spectral_norm


def definition(weight, groups=1):
    """`‖W Wᵀ - I‖²` or `‖Wᵀ W - I‖²`, whichever Gram matrix is smaller, for each group."""
    total = 0.0
    for part in np.split(weight.reshape(weight.shape[0], -1), groups):
        gram = part @ part.T if part.shape[0] <= part.shape[1] else part.T @ part
        total += ((gram - np.eye(len(gram))) ** 2).sum()
    return total


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4), nn.Linear(4, 6), nn.Conv2d(3, 8, 3), nn.Conv2d(1, 16, 3), nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, 1, groups=2), nn.Linear(1, 1),
    ],
)  # fmt: skip
def test_the_term_is_the_definition_and_its_gradient(layer):
    layer = layer.double()
    weight = layer.weight.detach().numpy()
    groups = getattr(layer, "groups", 1)
    assert orthogonality_error(layer).item() == pytest.approx(definition(weight, groups), rel=1e-9)
    orthogonality_error(layer).backward()
    index = (0,) * weight.ndim
    moved = weight.copy()
    moved[index] += 1e-6
    slope = (definition(moved, groups) - definition(weight, groups)) / 1e-6
    assert layer.weight.grad[index].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_orthogonal_weights_cost_nothing():
    for shape in ((4, 9), (9, 4)):
        layer = nn.Linear(shape[1], shape[0])
        nn.init.orthogonal_(layer.weight)
        assert orthogonality_error(layer).item() == pytest.approx(0, abs=1e-9)


def test_the_loss_term_is_half_beta_times_the_sum_over_all_layers():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    objective = Orthogonality(0.02)
    network = SimpleNamespace(model=model)
    objective.start(network, torch.zeros(1, 1, 8, 8))
    expected = 0.01 * (definition(model[0].weight.detach().numpy()) + definition(model[3].weight.detach().numpy()))
    assert objective.terms(network, None, None, None)["penalty"].item() == pytest.approx(expected, rel=1e-5)
    zero = Orthogonality(0.0)
    zero.start(network, torch.zeros(1, 1, 8, 8))
    assert zero.terms(network, None, None, None) == {}
    assert set(zero.measure(network)) == {"orthogonality_error", "spectral_norm", "spectral_norm_bn"}


def test_spectral_norms_with_and_without_batch_norm():
    conv, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.running_var.uniform_(0.1, 3)
    matrix = conv.weight.detach().numpy().reshape(5, -1)
    assert spectral_norm(conv) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-4)
    scale = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
    assert spectral_norm(conv, norm) == pytest.approx(np.linalg.norm(scale[:, None] * matrix, 2), rel=1e-4)


def test_batch_norms_are_paired_by_what_flows_where():
    from qadv.backbones import create_backbone

    model = create_backbone("resnet20")
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    pairs = following_batch_norms(model, layers, torch.zeros(1, 3, 32, 32))
    names = {id(m): n for n, m in model.named_modules()}
    assert {name: names[id(norm)] for name, norm in pairs.items()} == {
        name: name.replace("conv", "bn") for name in layers if "conv" in name
    }
