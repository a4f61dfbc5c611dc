"""ResNet-20 for CIFAR (He et al. 2016, §4.2): 3 stages of 3 blocks, option-A shortcuts without parameters."""

import torch.nn.functional as F
from torch import Tensor, nn

from qadv.backbones.aggregation import make_aggregation


class PadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels added in equal numbers before and after."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the shortcut, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, aggregation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        plain = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if plain else PadShortcut(in_channels, out_channels, stride)
        self.add = make_aggregation(aggregation)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(self.add(self.shortcut(x), branch))
        return out


class CifarResNet(nn.Module):
    """(N, in_channels, 32, 32) images to (N, nb_classes) logits; 6n + 2 layers."""

    def __init__(self, blocks: int, nb_classes: int, in_channels: int, aggregation: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, 1, aggregation)
        self.layer2 = _stage(16, 32, blocks, 2, aggregation)
        self.layer3 = _stage(32, 64, blocks, 2, aggregation)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, nb_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, aggregation: str) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, aggregation)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1, aggregation) for _ in range(blocks - 1)))


def resnet20(nb_classes: int = 10, in_channels: int = 3, aggregation: str = "sum") -> CifarResNet:
    """Returns a ResNet-20 for 32×32 images, 0.27 M parameters.

    Args:
        aggregation: `"sum"`, or `"convex"` for DQ's convex combination of shortcut and branch.
    """
    return CifarResNet(3, nb_classes, in_channels, aggregation)
