"""`corrupted`: natural noise, the fifteen corruptions of ImageNet-C at five severities (Hendrycks, Dietterich 2019)."""

import hashlib
import inspect
import warnings
from functools import partial

import numpy as np
from PIL import Image

from qadv.checks import check_choice, check_whole
from qadv.datasets.changed import Changed, as_image, as_pixels, of_noise
from qadv.datasets.dataset import ImageDataset, Images32
from qadv.errors import InvalidInputError

CORRUPTIONS = (
    "gaussian-noise", "shot-noise", "impulse-noise", "defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic-transform", "pixelate", "jpeg-compression",
)  # fmt: skip
_SMALLEST = 28  # below, motion blur runs out of the image at every severity
_LONGEST_BLUR = {4: 31, 5: 41}  # px of motion blur's kernels, whose ends have weight


def corrupted(images: ImageDataset, corruption: str, severity: int, seed: int = 0) -> ImageDataset:
    """Returns a data set with corrupted test images, as `imagecorruptions-imaug` makes them; by name
    corrupted:CORRUPTION:SEVERITY:OTHER.

    The constants are ImageNet-C's, made for photographs of 224 px; CIFAR-10-C's are milder.

    Args:
        images: the other data set, 28 px or more. Motion blur at severities 4 and 5 needs 31 and 41 px: in smaller
            images it loses the end of its kernel, which darkens them, and a warning says so.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of what is drawn, which hangs on it and the image alone: whoever reads an image gets the same one.

    Raises:
        InvalidInputError: there is no such corruption or severity, or images are smaller, or not grey or coloured.
        MissingRequirementError: the extra `noise` is not installed.
    """
    check_choice("corruption", corruption, CORRUPTIONS)
    severity, seed = check_whole("severity", severity, most=5), check_whole("seed", seed, least=0)
    channels, *size = images.input_shape
    if channels not in (1, 3) or min(size) < _SMALLEST:
        raise InvalidInputError(
            f"corrupted: expected 1 or 3 channels of {_SMALLEST} px or more, {images.name} has {images.input_shape}; "
            "resized and decoded take smaller images"
        )
    of_noise("imagecorruptions")
    if corruption == "motion-blur" and min(size) < (length := _LONGEST_BLUR.get(severity, 0)):
        warnings.warn(
            f"motion-blur at severity {severity} needs {length} px, {images.name} has {min(size)}: its kernel ends at "
            "the side, and the images get darker, by up to 6 % at 28 px",
            stacklevel=2,
        )
    name = f"corrupted:{corruption}:{severity}" + (f"(seed={seed})" if seed else "")
    return Changed(name, images, partial(_corrupt, corruption=corruption, severity=severity, seed=seed))


def _corrupt(image: Images32, corruption: str, severity: int, seed: int) -> Images32:
    from qadv.random_states import seeded

    pixels = as_pixels(image)
    change = of_noise("imagecorruptions").corruption_dict[corruption.replace("-", "_")]  # `corrupt` refuses 28 px
    drawn = hashlib.blake2b(f"{seed} {pixels.shape} ".encode() + pixels.tobytes(), digest_size=4).digest()
    number = int.from_bytes(drawn, "little")
    own = {"seed": number} if "seed" in inspect.signature(change).parameters else {}
    with seeded(number):
        changed = np.asarray(change(Image.fromarray(pixels).convert("RGB"), severity, **own)).astype(np.uint8)
    return as_image(changed[..., 1] if len(image) == 1 else changed)  # of grey ones all channels are alike but frost's
