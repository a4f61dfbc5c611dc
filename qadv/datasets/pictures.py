"""One picture of a file: what is wrong with it, what is done to it in reading, and the picture itself."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from qadv.errors import FileFormatError, QadvError, describe

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")  # others may run programs, as EPS does
_ORIENTATION = 0x0112
_GREY = ("1", "L", "LA")
_DEEP = re.compile(";16[NBL]")  # in how Pillow names what it reads; of a BMP ";16" is for all channels together


def look(file: BinaryIO, name: str, mode: str, whole: bool = False) -> tuple[str, list[str]]:
    """Returns why a file can't be `read`, `""` where it can, and what `read` changes besides the size.

    Only its head is read, or with `whole` all of it is decoded.
    """
    try:
        with _opened(file, name) as image:
            if whole:
                image.load()
            changes = [] if image.mode == mode else ["grey" if image.mode in _GREY else f"mode {image.mode}"]
            if _is_turned(image):
                changes.append("turned as EXIF says")
            return "", changes
    except FileFormatError as error:
        return str(error), []


def read(file: BinaryIO, name: str, mode: str, decode: Callable[[bytes], Any] | None = None) -> Image.Image:
    """Returns a picture upright, in mode `"RGB"` or `"L"`; one that can't be read is a `FileFormatError` with its name.

    In place of Pillow's decoder, `decode` makes pixels (H, W, 3) uint8 of JPEG files, those in CMYK apart.
    """
    with _opened(file, name) as image:
        is_turned = _is_turned(image)
        if decode is not None and image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            file.seek(0)
            info, image = image.info, Image.fromarray(decode(file.read()))
            image.info = info  # with what EXIF says
        return (ImageOps.exif_transpose(image) if is_turned else image).convert(mode)


def _is_turned(image: Any) -> bool:
    """Whether a picture's head says that it is to be shown otherwise; of a PNG what follows its pixels is not read."""
    return (image.format != "PNG" or "exif" in image.info) and image.getexif().get(_ORIENTATION, 1) != 1


def _is_deep(image: Any) -> bool:
    """Whether Pillow cuts a picture of several channels, whose mode does not tell, down to 8 bits."""
    for codec, *_, arguments in image.tile:
        mode, *more = (arguments,) if isinstance(arguments, str) else arguments or (None,)
        if (isinstance(mode, str) and _DEEP.search(mode)) or (codec.startswith("ppm") and more and more[0] > 255):
            return True
    return False


@contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Opens a picture; whatever goes wrong with it, also later in the block, is an error with its name."""
    try:
        image: Any = Image.open(file, formats=_FORMATS)
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # phones put a preview behind a picture
        if frames > 1:
            raise FileFormatError(f"{name}: expected one picture, got {frames} (animated, or several pages)")
        if image.mode[0] in "IF" or _is_deep(image):
            raise FileFormatError(f"{name}: expected 8 bits in a channel, got mode {image.mode} of more; convert it")
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        if has_alpha and image.convert("RGBA").getextrema()[3][0] < 255:
            raise FileFormatError(f"{name}: it has transparent pixels, and nothing says what is behind them")
        yield image
    except QadvError:
        raise
    except UnidentifiedImageError as error:
        raise FileFormatError(f"{name} is no picture; {', '.join(_FORMATS)} are read") from error
    except Exception as error:  # a damaged file may raise anything
        raise FileFormatError(f"{name} is no whole picture: {describe(error)}") from error
