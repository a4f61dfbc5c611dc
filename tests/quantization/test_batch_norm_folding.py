"""A folded BatchNorm computes what it did; what can't be folded is left alone."""

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

import qadv
from qadv.quantization.batch_norm_folding import can_be_folded, foldable, folded
from qadv.quantization.form import Form, FormOptions
from qadv.quantization.frozen import freeze
from qadv.quantization.own_parts import own_parts

LAYERS = nn.Conv1d | nn.Conv2d | nn.Linear


def randomised(model):
    """Gives BatchNorms statistics, scales (of both signs) and shifts of their own."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                if module.running_mean is not None:
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.1, 3)
                if module.affine:
                    module.weight.normal_()
                    module.bias.normal_()
    return model.eval()


def folded_norms(model, x):
    """Returns the names of the BatchNorms that can be folded."""
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    found = foldable(model, layers, [module for module in model.modules() if can_be_folded(module)], x[:1])
    return [name for name, module in model.named_modules() if module in found.values()]


def form(model):
    return Form(model, FormOptions(fold_batch_norm=True), own_parts)


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (4, 7, 7)),
        (nn.Conv2d(4, 6, 3, groups=2, padding="same"), nn.BatchNorm2d(6, eps=0.1), (4, 7, 7)),
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), nn.BatchNorm2d(4, affine=False), (4, 7, 7)),
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (4, 7)),
        (nn.Linear(5, 6), nn.BatchNorm1d(6), (5,)),
    ],
)
def test_outputs_in_float64_are_the_same(layer, norm, shape):
    model = randomised(nn.Sequential(layer, norm)).double()
    x = torch.randn(3, *shape, dtype=torch.float64)
    expected = model(x).detach()
    assert folded_norms(model, x) == ["1"]
    torch.testing.assert_close(form(model)(x), expected, rtol=1e-12, atol=1e-12)
    assert expected.std() > 0.1


def test_weights_and_bias_are_those_of_the_formula():
    model = randomised(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)))
    w, b = (p.detach().double().numpy() for p in (model[0].weight, model[0].bias))
    norm = {name: value.detach().double().numpy() for name, value in model[1].state_dict().items()}
    gain = norm["weight"] / np.sqrt(norm["running_var"] + 1e-5)
    weight, bias = (value.detach().numpy() for value in folded(model[0].weight, model[0].bias, model[1]))
    np.testing.assert_allclose(weight, w * gain[:, None, None, None], rtol=1e-7)
    np.testing.assert_allclose(bias, gain * (b - norm["running_mean"]) + norm["bias"], rtol=1e-6)


class Network(nn.Module):
    """A convolution and a BatchNorm, put together by a function of the two and the input."""

    def __init__(self, forward, norm=None):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.normalisation = nn.BatchNorm2d(3) if norm is None else norm
        self.together = forward

    def forward(self, x):
        return self.together(self.convolution, self.normalisation, x).flatten(1)


@pytest.mark.parametrize(
    "together",
    [
        lambda conv, norm, x: norm(conv(x).relu()),
        lambda conv, norm, x: (lambda y: norm(y) + y)(conv(x)),
        lambda conv, norm, x: norm(conv(conv(x))),
        lambda conv, norm, x: norm(norm(conv(x))),
        lambda conv, norm, x: norm(conv(x).add_(1)),
        lambda conv, norm, x: conv(norm(x)),
    ],
    ids=["relu between", "used twice", "layer runs twice", "norm runs twice", "changed in place", "norm first"],
)
def test_what_can_not_be_folded_is_left_alone(together):
    model = randomised(Network(together))
    x = torch.rand(2, 3, 5, 5)
    expected = model(x)
    assert folded_norms(model, x) == []
    assert torch.equal(form(model)(x), expected)


def test_norms_without_running_statistics_or_in_training_and_sequences_of_features_are_left_alone():
    x = torch.rand(2, 3, 5, 5)
    assert folded_norms(Network(lambda c, n, x: n(c(x)), nn.BatchNorm2d(3, track_running_stats=False)).eval(), x) == []
    assert folded_norms(Network(lambda c, n, x: n(c(x))), x) == []
    sequence = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(3), nn.Flatten()).eval()
    assert folded_norms(sequence, torch.rand(2, 3, 5)) == []


def test_timms_batch_norms_keep_their_activation():
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Flatten())).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert folded_norms(model, x) == ["1"]
    torch.testing.assert_close(form(model)(x), model(x), rtol=1e-12, atol=1e-12)
    assert (form(model)(x) >= 0).all()


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_every_batch_norm_of_these_backbones_is_folded_and_float64_outputs_stay(name):
    from qadv.backbones import create_backbone

    quantized = qadv.quantize(randomised(create_backbone(name, nb_classes=10, in_channels=3)), "int:4", "float")
    frozen = freeze(quantized.eval()).double()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    expected = frozen(x)
    assert len(folded_norms(frozen, x)) == sum(isinstance(m, nn.BatchNorm2d) for m in quantized.modules())
    torch.testing.assert_close(form(frozen)(x), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
