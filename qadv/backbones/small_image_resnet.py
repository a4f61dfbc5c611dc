"""ResNet-18 to ResNet-152 for 32×32 images: the networks of DQ's table 5 and of EQ's CIFAR-100 tables."""

from typing import Any

import timm
from torch import nn

from qadv.checks import check_choice

_MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def small_image_resnet(nb_classes: int = 10, in_channels: int = 3, model: str = "resnet18") -> nn.Module:
    """Returns a timm ResNet, `model`, whose first convolution is 3×3 with stride 1, without the max pooling behind it.

    **Reading:** neither paper says how it fits a network for 224×224 images to 32×32; this is the usual way (Madry et
    al., and most code for CIFAR). With the original first layers the last stage would see one pixel.
    """
    check_choice("model", model, _MODELS)
    network: Any = timm.create_model(model, num_classes=nb_classes, in_chans=in_channels)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network  # type: ignore[no-any-return]
