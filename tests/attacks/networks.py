"""Classifiers whose adversarial distances are known, and a count of what a network was asked."""

from contextlib import contextmanager

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

SHAPE = (1, 4, 4)


class Linear(nn.Module):
    """Two classes, logits (f/2, -f/2), f = w·x + b; summed row by row, so that batches don't change the rounding."""

    def __init__(self, seed=0, bias=0.0, scale=3.0):
        super().__init__()
        w = np.random.default_rng(seed).uniform(0.2, 1, SHAPE) * np.random.default_rng(seed + 1).choice([-1, 1], SHAPE)
        self.w = nn.Parameter(torch.tensor(w * scale, dtype=torch.float32))
        self.b = nn.Parameter(torch.tensor(bias - 0.5 * float(w.sum()) * scale))  # f = bias at the grey image

    def f(self, x):
        return (x * self.w).flatten(1).sum(1) + self.b

    def forward(self, x):
        return torch.stack([self.f(x) / 2, -self.f(x) / 2], dim=1)


def linear_case(n=6, seed=0):
    """Returns a linear classifier, images well inside [0, 1], their f, ‖w‖₁ and ‖w‖₂."""
    network = Linear(seed)
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.4, 0.6, (n, *SHAPE)).astype(np.float32)
    w = network.w.detach().numpy()
    # move along w, so that distances are of one size: |f| from 0.2 to 0.4 times the norm
    f = network.f(torch.from_numpy(x)).detach().numpy()
    wanted = rng.uniform(0.2, 0.4, n) * np.linalg.norm(w) * rng.choice([-1, 1], n)
    x += ((wanted - f) / np.linalg.norm(w) ** 2).reshape(-1, 1, 1, 1).astype(np.float32) * w
    assert x.min() > 0.1
    assert x.max() < 0.9
    f = network.f(torch.from_numpy(x)).detach().numpy()
    return plain(network, 2, SHAPE), x, f, np.abs(w).sum(), np.linalg.norm(w)


def plain(network, nb_classes=10, shape=(1, 8, 8), **options):
    """Returns ART's own classifier round a network."""
    settings = {"clip_values": (0.0, 1.0), **options}
    return PyTorchClassifier(network, nn.CrossEntropyLoss(), shape, nb_classes, device_type="cpu", **settings)


class Smooth(nn.Module):
    """A network without kinks, so that two ways to the same result stay together."""

    def __init__(self, nb_classes, shape, scale):
        super().__init__()
        self.hidden = nn.Linear(int(np.prod(shape)), 12)
        self.last = nn.Linear(12, nb_classes)
        with torch.no_grad():
            self.last.weight.mul_(scale)

    def forward(self, x):
        return self.last(torch.tanh(self.hidden(x.flatten(1))))


def smooth_network(seed=0, nb_classes=4, shape=SHAPE, scale=4.0):
    """Returns such a network in evaluation mode."""
    torch.manual_seed(seed)
    return Smooth(nb_classes, shape, scale).eval()


@contextmanager
def counted(network):
    """Yields a list that gets the number of rows of each forward pass."""
    rows = []
    handle = network.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    try:
        yield rows
    finally:
        handle.remove()
