"""Networks that tests attack, and the images for them."""

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.testing import digits_classifier


def digits(number):
    """The first test images that the 4-bit network of `qadv.testing` gets right, but for the third; (x, y)."""
    data = qadv.create("dataset", "digits")
    right = digits_classifier().predict(data.x_test).argmax(1) == data.y_test
    chosen = np.flatnonzero(right)[:number]
    chosen[2:3] = np.flatnonzero(~right)[:1]
    return data.x_test[chosen], data.y_test[chosen]


def plain(network, nb_classes=10, shape=(1, 8, 8), clip_values=(0.0, 1.0), **arguments):
    """A network in ART's own classifier."""
    return PyTorchClassifier(
        network, nn.CrossEntropyLoss(), shape, nb_classes, clip_values=clip_values, device_type="cpu", **arguments
    )


def linear(nb_classes, shape=(1, 8, 8), seed=0):
    """Logits `W x + b` with random W, and b such that a grey image is right at the boundary; (network, W, b)."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(int(np.prod(shape)), nb_classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        layer.bias.copy_(-0.5 * layer.weight.sum(dim=1))
    return nn.Sequential(nn.Flatten(), layer), layer.weight.detach().double().numpy(), layer.bias.detach().numpy()
