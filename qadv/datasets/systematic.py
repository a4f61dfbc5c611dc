"""`decoded` and `resized`: systematic noise, what differs between programs that read one picture (SysNoise, 2023)."""

import io
import warnings
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from qadv.checks import check_choice
from qadv.datasets.changed import Changed, Pixels, as_image, as_pixels, of_noise
from qadv.datasets.dataset import ImageDataset, Images32
from qadv.datasets.photographs import Photographs
from qadv.errors import MissingRequirementError

_QUALITY = 95
_ENLARGED = 1.5  # a photograph of ImageNet is 375 px high, and is reduced to 256


def decoded(images: ImageDataset, decoder: str) -> ImageDataset:
    """Returns a data set whose test images come from JPEG by another of the `DECODERS`; by name decoded:DECODER:OTHER.

    Photographs in JPEG files are decoded by it, other files as ever. Arrays are encoded before, by Pillow with quality
    95, so that decoded:pillow:OTHER is what the others compare with.

    Raises:
        InvalidInputError: there is no such decoder.
        MissingRequirementError: it needs OpenCV, which the extra `noise` brings.
    """
    decode = DECODERS[check_choice("decoder", decoder, DECODERS)]
    return _read_otherwise(f"decoded:{decoder}", images, partial(_through_jpeg, decode=decode), decode=decode)


def resized(images: ImageDataset, resizer: str) -> ImageDataset:
    """Returns a data set with test images that another of the `RESIZERS` resized; by name resized:RESIZER:OTHER.

    These are Pillow's filters, OpenCV's, and torchvision's of tensors without antialiasing. It takes the place of the
    one that timm's config of the network says for photographs. Arrays are enlarged before, 1.5 times by Pillow's
    bicubic filter, and reduced by it to what they were.

    Raises:
        InvalidInputError: there is no such function.
        MissingRequirementError: it needs OpenCV, which the extra `noise` brings.
    """
    library, _, filter_name = check_choice("resizer", resizer, RESIZERS).partition("-")
    resize = partial(_LIBRARIES[library], filter_name=filter_name)
    return _read_otherwise(f"resized:{resizer}", images, partial(_down_again, resize=resize), resize=resize)


def _read_otherwise(
    name: str, images: ImageDataset, change: Callable[[Images32], Images32], **reading: Any
) -> ImageDataset:
    """Returns photographs that are read in another way, and arrays with a change in place of that."""
    tested = _photographs(images, reading)
    found = Changed(name, images, change) if tested is None else Changed(name, images, tested=tested)
    found.image("test", 0)  # a library that is not there is missed now
    return found


def _photographs(images: ImageDataset, reading: dict[str, Any]) -> ImageDataset | None:
    """Returns a data set whose photographs are read in another way, below what it changes; `None` without any."""
    if isinstance(images, Photographs):
        return images.read_by(**reading)
    if isinstance(images, Changed) and (tested := _photographs(images.tested, reading)) is not None:
        other = copy(images)
        other.tested = tested
        return other
    return None


def _through_jpeg(image: Images32, decode: Callable[[bytes], Pixels]) -> Images32:
    file, picture = io.BytesIO(), Image.fromarray(as_pixels(image))
    picture.save(file, "JPEG", quality=_QUALITY)
    return as_image(np.asarray(Image.fromarray(decode(file.getvalue())).convert(picture.mode)))


def _by_pillow(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _by_opencv(content: bytes) -> Pixels:
    cv2 = of_noise("cv2")
    unturned = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(content, np.uint8), unturned)[..., ::-1])


def _by_ffmpeg(content: bytes) -> Pixels:
    """OpenCV's wheels bring FFmpeg, which has a decoder of its own; the others use libjpeg-turbo."""
    cv2 = of_noise("cv2")
    video = cv2.VideoCapture(io.BytesIO(content), cv2.CAP_FFMPEG, [])
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    return np.ascontiguousarray(video.read()[1][..., ::-1])


def _by_torchvision(content: bytes) -> Pixels:
    import torch

    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError as error:  # announced in 0.29
        raise MissingRequirementError(
            "this torchvision decodes no JPEG files any more; take pillow or opencv"
        ) from error
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        decoded = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    return np.asarray(decoded.permute(1, 2, 0).contiguous().numpy())


def _down_again(image: Images32, resize: Callable[..., Image.Image]) -> Images32:
    picture = Image.fromarray(as_pixels(image))
    width, height = (round(_ENLARGED * side) for side in picture.size)
    return as_image(np.asarray(resize(picture.resize((width, height), Image.Resampling.BICUBIC), picture.size)))


def _pillow(picture: Image.Image, size: tuple[int, int], filter_name: str) -> Image.Image:
    return picture.resize(size, Image.Resampling[filter_name.upper()])


def _opencv(picture: Image.Image, size: tuple[int, int], filter_name: str) -> Image.Image:
    cv2 = of_noise("cv2")
    names = {"bilinear": "LINEAR", "bicubic": "CUBIC", "lanczos": "LANCZOS4"}
    filter_number = getattr(cv2, f"INTER_{names.get(filter_name, filter_name.upper())}")
    return Image.fromarray(cv2.resize(np.asarray(picture), size, interpolation=filter_number))


def _torchvision(picture: Image.Image, size: tuple[int, int], filter_name: str) -> Image.Image:
    from torchvision.transforms.v2 import functional

    mode = functional.InterpolationMode(filter_name)
    tensor = functional.resize(functional.pil_to_tensor(picture), size[::-1], mode, antialias=False)
    found: Image.Image = functional.to_pil_image(tensor)
    return found


DECODERS: dict[str, Callable[[bytes], Pixels]] = {
    "pillow": _by_pillow,
    "opencv": _by_opencv,
    "ffmpeg": _by_ffmpeg,
    "torchvision": _by_torchvision,
}
_LIBRARIES = {"pillow": _pillow, "opencv": _opencv, "torchvision": _torchvision}
RESIZERS = (
    "pillow-nearest", "pillow-box", "pillow-bilinear", "pillow-hamming", "pillow-bicubic", "pillow-lanczos",
    "opencv-nearest", "opencv-bilinear", "opencv-area", "opencv-bicubic", "opencv-lanczos",
    "torchvision-nearest", "torchvision-bilinear", "torchvision-bicubic",
)  # fmt: skip
