"""Data sets whose test images are another one's, changed: by name NAME:ARGUMENT:…:OTHER, as corrupted:fog:3:cifar10."""

import hashlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qadv.datasets.dataset import ImageDataset, Images32, Labels
from qadv.errors import MissingRequirementError

Pixels = NDArray[np.uint8]  # (H, W, 3), or (H, W) of a grey image


class Changed(ImageDataset):
    """Another data set with its test images changed as they are read; what is trained on stays as it is.

    Args:
        name: what is done, as it stands before the other's name.
        images: the other one.
        change: what makes of one of its images another, (C, H, W) float32 in [0, 1]; `None` leaves them.
        tested: the data set whose test images are changed, where it is not `images`: those read in another way.
    """

    def __init__(
        self,
        name: str,
        images: ImageDataset,
        change: Callable[[Images32], Images32] | None = None,
        tested: ImageDataset | None = None,
    ) -> None:
        self.name, self.classes = f"{name}:{images.name}", images.classes
        self.images, self.change, self.tested = images, change, tested or images

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.images.input_shape

    @property
    def settings(self) -> Any:
        """How photographs are resized and cropped; `None` where there are none."""
        return getattr(self.images, "settings", None)

    def labels(self, part: str) -> Labels:
        return self.images.labels(part)

    def image(self, part: str, index: int) -> Images32:
        image = (self.tested if part == "test" else self.images).image(part, index)
        return image if self.change is None or part != "test" else self.change(image)

    def take(self, part: str, number: int | None = None, seed: int | None = None) -> tuple[Images32, Labels]:
        """As any data set's; what is trained on is taken from the other one, arrays as a view."""
        return self.images.take(part, number, seed) if part == "train" else super().take(part, number, seed)

    def digest(self) -> str:
        """As any data set's; one changed image stands for the versions of the libraries that change them."""
        state = hashlib.blake2b(f"{self.name} {self.images.digest()}".encode(), digest_size=16)
        state.update(self.image("test", 0).tobytes())
        return state.hexdigest()


def as_pixels(image: Images32) -> Pixels:
    """Returns an image (C, H, W) of [0, 1], 1 or 3 channels, as 8-bit pixels, as programs for pictures take it."""
    pixels = np.rint(image * 255).astype(np.uint8)
    return pixels[0] if len(image) == 1 else pixels.transpose(1, 2, 0)


def as_image(pixels: NDArray[Any]) -> Images32:
    """Returns 8-bit pixels as an image (C, H, W) of [0, 1]."""
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.asarray(channels.astype(np.float32) / np.float32(255))


def of_noise(module: str) -> Any:
    """Imports a module of the extra `noise`, or says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingRequirementError(
            f"{module} can't be imported ({error}); install it with: pip install 'qadv[noise]', and where there is no "
            "libGL with: pip install opencv-python-headless"
        ) from error
