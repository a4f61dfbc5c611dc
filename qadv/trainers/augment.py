"""Augmentation of whole batches on the device."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_flip(x: Tensor, black: float = 0.0, padding: int = 4) -> Tensor:
    """Pads with black, crops at random to the old size and mirrors every second image on average; one gather."""
    n, channels, height, width = x.shape
    padded = F.pad(x, (padding,) * 4, value=black)
    top, left = torch.randint(2 * padding + 1, (2, n, 1), device=x.device)
    mirrored = torch.rand(n, 1, device=x.device) < 0.5
    rows = top + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = left + torch.where(mirrored, width - 1 - columns, columns)
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def unchanged(x: Tensor, black: float = 0.0) -> Tensor:
    """Returns the images as they are: `"none"`, where a file can't say `None`."""
    return x


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {"crop-flip": crop_flip, "none": unchanged}
