"""Wide residual networks (Zagoruyko & Komodakis 2016), pre-activation: WRN-28-10 and WRN-16-4 are DQ's networks."""

from itertools import pairwise

from torch import Tensor, nn

from qadv.backbones.aggregation import make_aggregation
from qadv.errors import InvalidInputError


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-(dropout)-conv, plus the shortcut; a 1×1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float, aggregation: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        plain = stride == 1 and in_channels == out_channels
        self.shortcut = None if plain else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        self.add = make_aggregation(aggregation)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        branch = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(activated)))))
        out: Tensor = self.add(shortcut, branch)
        return out


class WideResNet(nn.Module):
    """(N, in_channels, 32, 32) images to (N, nb_classes) logits."""

    def __init__(
        self, depth: int, width: int, dropout: float, nb_classes: int, in_channels: int, aggregation: str
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise InvalidInputError(f"depth: expected 6n + 4 (10, 16, 22, 28, …), got {depth}")
        blocks = (depth - 4) // 6
        channels = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        for stage, (before, after) in enumerate(pairwise(channels)):
            for block in range(blocks):
                first = block == 0
                shape = (before if first else after), after, 2 if first and stage > 0 else 1
                self.stages.append(WideBlock(*shape, dropout, aggregation))
        self.bn = nn.BatchNorm2d(channels[3])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels[3], nb_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stages(self.conv1(x))))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def wide_resnet(
    nb_classes: int = 10,
    in_channels: int = 3,
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
    aggregation: str = "sum",
) -> WideResNet:
    """Returns WRN-depth-width for 32×32 images.

    Args:
        depth: 6n + 4.
        width: widening factor.
        dropout: probability between the convolutions of a block.
        aggregation: `"sum"`, or `"convex"` for DQ's convex combination of shortcut and branch.
    """
    return WideResNet(depth, width, dropout, nb_classes, in_channels, aggregation)
