"""Networks for toolkits to quantize: one of 22 layers with sums and depthwise convolutions, one with attention."""

import numpy as np
import torch
from torch import nn

import qadv

SHAPE, CLASSES = (3, 8, 8), 5
X = np.random.default_rng(0).random((6, *SHAPE)).astype(np.float32)
Y = np.arange(6) % CLASSES


class Block(nn.Module):
    def __init__(self, channels, sums, norm):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.bn2, self.sum = norm(channels), sums()

    def forward(self, x):
        return self.sum.add(x, self.bn2(self.depthwise(self.relu(self.bn(self.conv(x))))))


class Sum(nn.Module):
    def add(self, x, y):
        return x + y


class Deep(nn.Module):
    def __init__(self, sums=Sum, enter=nn.Identity, leave=nn.Identity, norm=nn.BatchNorm2d):
        super().__init__()
        channels = 4
        self.enter, self.leave = enter(), leave()
        self.first, self.pool = nn.Conv2d(3, channels, 3, padding=1), nn.AdaptiveAvgPool2d(2)
        self.blocks = nn.Sequential(*(Block(channels, sums, norm) for _ in range(10)))
        self.last = nn.Linear(4 * channels, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.bias, -0.5, 0.5)

    def forward(self, x):
        x = self.pool(self.blocks(self.first(self.enter(x))))
        return self.leave(self.last(x.flatten(1)))


class Transformer(nn.Module):
    """Linear layers of 32 inputs, with attention between them."""

    def __init__(self):
        super().__init__()
        self.patches, self.head = nn.Linear(48, 32), nn.Linear(32, CLASSES)
        self.first, self.second, self.act = nn.Linear(32, 64), nn.Linear(64, 32), nn.GELU()

    def forward(self, x):
        x = self.patches(x.reshape(len(x), 4, 48))
        x = x + nn.functional.scaled_dot_product_attention(x, x, x)
        return self.head((x + self.second(self.act(self.first(x)))).mean(1))


def images(n=6):
    return torch.from_numpy(X[:n])


def settled(network):
    """Runs two batches, by which observers set scales, and returns the network."""
    with torch.no_grad():
        for seed in range(2):
            network(torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(seed)))
    return network


def classifier_of(network, **options):
    return qadv.QuantizedClassifier(network, nn.CrossEntropyLoss(), SHAPE, CLASSES, device_type="cpu", **options)


def answers(network, x=None):
    """Returns logits and image gradients of a network by itself."""
    x = (images() if x is None else x).clone().requires_grad_()
    logits = network(x)
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(Y), reduction="sum")
    return logits.detach().numpy(), torch.autograd.grad(loss, x)[0].numpy()


def state(network):
    """Returns copies of all buffers and parameters, those of packed layers included."""
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in network.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
