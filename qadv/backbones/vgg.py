"""VGG-16 with BatchNorm for 32×32 images: DQ's black-box substitute."""

from torch import nn

_CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def vgg16(nb_classes: int = 10, in_channels: int = 3) -> nn.Sequential:
    """Returns (N, in_channels, 32, 32) → (N, nb_classes) logits: 13 convolutions, one linear layer, 14.7 M weights."""
    layers: list[nn.Module] = []
    channels = in_channels
    for entry in _CHANNELS:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, entry, 3, padding=1, bias=False), nn.BatchNorm2d(entry), nn.ReLU()]
        channels = entry
    features = nn.Sequential(*layers)
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(features, nn.Flatten(), nn.Linear(512, nb_classes))
