"""Frozen networks compute what the trainable ones do, to the bit, and remember their codes."""

import copy

import pytest
import torch
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.quantization.frozen import FrozenConv2d, freeze

PAIRS = [
    ("int:4", "relu6:4"),
    ("int-per-tensor:3", "relu1:2"),
    ("bwn", "pact:2"),
    ("twn", "tanh:2"),
    ("binary-connect", "dorefa:3"),
    ("dorefa:3", "dorefa:2"),
    ("pwlq:3", "binary-net"),
    ("binary-net", "relu6:1"),
    ("sq(bwn)", "relu6:8"),
    ("float", "relu6:4"),
    ("int:4", "float"),
]
NETWORKS = {
    "resnet20": ({}, (3, 32, 32)),
    "mnist-cnn": ({}, (1, 28, 28)),
    "vgg16": ({}, (3, 32, 32)),
    "vit_tiny_patch16_224": ({"img_size": 32}, (3, 32, 32)),  # inputs of layers are quantized
    "tf_efficientnet_b0": ({}, (3, 64, 64)),  # pads as TensorFlow does
}


def both(network, weights, activations):
    options, shape = NETWORKS[network]
    model = qadv.load("backbone", network)(in_channels=shape[0], **options) if network in ("resnet20",) else None
    if model is None:
        from qadv.backbones import create_backbone

        model = create_backbone(network, nb_classes=10, in_channels=shape[0], **options)
    quantized = qadv.quantize(model, weights, activations).eval()
    return quantized, freeze(quantized), torch.rand(3, *shape)


def outputs_and_gradient(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    return y.detach(), gradient


@pytest.mark.parametrize(
    ("network", "weights", "activations"),
    [("mnist-cnn", *pair) for pair in PAIRS]
    + [(network, "int:4", "relu6:4") for network in NETWORKS if network != "mnist-cnn"],
)
def test_outputs_and_gradients_are_the_trainable_networks_to_the_bit(network, weights, activations):
    quantized, frozen, x = both(network, weights, activations)
    y, gradient = outputs_and_gradient(quantized, x)
    frozen_y, frozen_gradient = outputs_and_gradient(frozen, x)
    assert y.abs().max() > 0 or network == "tf_efficientnet_b0"
    assert torch.equal(frozen_y, y)
    assert torch.equal(frozen_gradient, gradient)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_frozen_network_describes_itself_as_before_and_leaves_the_original_alone():
    model = qadv.quantize(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), "twn", "pact:3"
    )
    before = copy.deepcopy(model.state_dict())
    frozen = freeze(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].weight.requires_grad
    assert type(frozen[1]) is FrozenConv2d
    assert torch.equal(frozen[1].levels, model[1].levels)
    assert torch.equal(frozen[1].weight, model[1].decoded())
    ours, theirs = qadv.summarize(frozen).layers, qadv.summarize(model).layers
    assert [(r.scheme, r.bits, r.levels, r.scale, r.packed_bytes) for r in ours] == [
        (r.scheme, r.bits, r.levels, r.scale, r.packed_bytes) for r in theirs
    ]
    assert "weights=twn" in repr(frozen)


def test_training_mode_and_shared_layers_are_kept():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), shared, nn.ReLU(), shared, nn.ReLU(), nn.Conv2d(3, 2, 1))
    quantized = qadv.quantize(model, "int:3").eval()
    quantized[2].train()
    frozen = freeze(quantized)
    assert frozen[1] is frozen[3]
    assert [m.training for m in frozen] == [m.training for m in quantized]
    x = torch.rand(2, 3, 5, 5)
    assert torch.equal(frozen(x), quantized(x))


def test_a_network_of_one_layer():
    model = qadv.quantize(nn.Linear(4, 3), "int:4", "float", skip_first_last=False)
    x = torch.rand(2, 4)
    assert torch.equal(freeze(model)(x), model(x))


def test_hooks_are_kept():
    model = qadv.quantize(
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)), "int:4"
    ).eval()
    model[1].register_forward_hook(lambda module, inputs, output: output + 1)
    model[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    seen = []
    model[3].register_full_backward_hook(lambda module, inputs, outputs: seen.append(module))
    x = torch.rand(5, 4)
    y, gradient = outputs_and_gradient(model, x)
    frozen_y, frozen_gradient = outputs_and_gradient(freeze(model), x)
    assert torch.equal(frozen_y, y)
    assert torch.equal(frozen_gradient, gradient)
    assert len(seen) == 2


def test_weights_changed_after_freezing_are_found_out():
    frozen = freeze(qadv.quantize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)), "int:4", "float"))
    frozen[1].quantized()
    frozen.load_state_dict({**frozen.state_dict(), "1.weight": torch.rand(4, 4)})
    with pytest.raises(InvalidInputError, match="freeze it again"):
        frozen[1].quantized()


def test_errors():
    with torch.device("meta"):
        empty = qadv.quantize(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)), "int:4", "float")
    with pytest.raises(InvalidInputError, match="meta device"):
        freeze(empty)
    quantized = qadv.quantize(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(InvalidInputError, match="frozen already"):
        freeze(freeze(quantized))
    with pytest.raises(InvalidInputError, match="quantize it first"):
        freeze(nn.Linear(2, 2))
