"""The network of the low-bitwidth study's table 8: six convolutions and three linear layers."""

from collections.abc import Sequence

from torch import nn

from qadv.checks import check_whole
from qadv.errors import InvalidInputError


def lowbit_convnet(
    nb_classes: int = 10,
    in_channels: int = 3,
    channels: Sequence[int] = (128, 128, 256, 256, 512, 512),
    dense: int = 1024,
    image_size: int = 32,
) -> nn.Sequential:
    """Returns (N, in_channels, S, S) → (N, nb_classes) logits.

    Each convolution is followed by BatchNorm and ReLU, every second one by 2×2 max pooling before its BatchNorm.

    **Reading:** the table's "(2,2)" beside the dense layers is a leftover: pooling has no meaning there.

    Args:
        channels: filters of the six convolutions; the study's SVHN network has 128 in the fourth.
        dense: units of the two hidden linear layers.
        image_size: S, at least 8.
    """
    if len(channels) != 6:
        raise InvalidInputError(f"channels: expected six numbers, got {len(channels)}")
    check_whole("image_size", image_size, least=8)
    layers: list[nn.Module] = []
    previous = in_channels
    for index, width in enumerate(channels):
        layers.append(nn.Conv2d(previous, width, 3, padding=1, bias=False))
        if index % 2:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        previous = width
    layers.append(nn.Flatten())
    previous *= (image_size // 8) ** 2
    for _ in range(2):
        layers += [nn.Linear(previous, dense, bias=False), nn.BatchNorm1d(dense), nn.ReLU()]
        previous = dense
    return nn.Sequential(*layers, nn.Linear(previous, nb_classes))
