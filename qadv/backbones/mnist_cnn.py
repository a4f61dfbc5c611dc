"""The 4-layer network for MNIST and other small grey images."""

from torch import nn

from qadv.checks import check_whole


def mnist_cnn(nb_classes: int = 10, in_channels: int = 1, image_size: int = 28, width: int = 32) -> nn.Sequential:
    """Returns (N, in_channels, S, S) → (N, nb_classes) logits: two convolutions and two linear layers.

    Args:
        image_size: S, at least 8.
        width: filters of the first convolution; the second has twice as many.
    """
    check_whole("image_size", image_size, least=8)
    side = image_size // 4
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * side * side, 4 * width),
        nn.BatchNorm1d(4 * width),
        nn.ReLU(),
        nn.Linear(4 * width, nb_classes),
    )
