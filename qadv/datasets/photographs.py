"""Photographs of any size, read when they are asked for, and resized and cropped as the network's makers do."""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qadv.checks import check_flag, check_number, check_whole
from qadv.datasets import pictures
from qadv.datasets.dataset import PARTS, ImageDataset, Images32, Labels, fault_of_labels
from qadv.errors import FileFormatError, InvalidInputError, PictureWarning, printable, some

_SKIP = "skip_bad=True (--skip-bad)"
_SETTINGS = ("input_size", "interpolation", "crop_pct", "crop_mode")


class Files(Protocol):
    """The pictures of one part: their labels, (N,), their files, and those at some places, in that order."""

    labels: Labels

    def open(self, index: int) -> BinaryIO: ...
    def name(self, index: int) -> str: ...
    def __getitem__(self, places: NDArray[Any]) -> Self: ...


class Photographs(ImageDataset):
    """A data set of pictures in files; nothing holds more of them than was asked for.

    Before a part is used for the first time the heads of its files are read. What is no picture that can be read
    without guessing is refused, or left out where `skip_bad` says so; what is changed in reading (grey pictures among
    coloured ones, CMYK, palettes, EXIF's rotation) is done and said.

    Args:
        name: of the data set.
        classes: the classes' names.
        train, test: the files; where there are none to test, `test_share` of each class's are drawn for that.
        network: what the images are for: a network, or its name; timm's config of it says how to resize, crop and
            interpolate. `None` takes timm's defaults.
        input_shape: (channels, height, width), 3 or 1 channels; `None` as the config says.
        skip_bad: leaves out what can't be read, with a warning that names it; each file is decoded once for that.
        test_share: from 0 to 1.
        seed: decides that, and the order of the files: the first ones are of all classes.

    Raises:
        InvalidInputError: labels that are no classes, too few files to split, other channels.
        FileFormatError: when a part is used: some of its files can't be read; names them.

    Warns:
        PictureWarning: some are changed in reading, or left out.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        train: Files,
        test: Files | None,
        network: Any = None,
        input_shape: Sequence[int] | None = None,
        skip_bad: bool = False,
        test_share: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.name, self.classes = printable(name), tuple(map(printable, classes))
        self.skip_bad = check_flag("skip_bad", skip_bad)
        share = check_number("test_share", test_share, below=1)
        parts = {"train": train, "test": test} if test is not None else _split(train, share, seed, name)
        for part, files in parts.items():
            if fault := fault_of_labels(files.labels, len(self.classes)):
                raise InvalidInputError(f"data set {name!r}, {part}: {fault}")
        random = np.random.default_rng(check_whole("seed", seed, least=0))
        self.parts = {part: files[random.permutation(len(files.labels))] for part, files in parts.items()}
        self.settings = _settings(network, input_shape)
        self._transform = _transform(self.settings)
        self._decode: Callable[[bytes], Any] | None = None
        self._kept: dict[str, NDArray[np.int64]] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.settings["input_size"])

    def labels(self, part: str) -> Labels:
        return np.asarray(self.parts[part].labels[self._readable(part)])

    def image(self, part: str, index: int) -> Images32:
        files, place = self.parts[part], int(self._readable(part)[index])
        with files.open(place) as file:
            try:
                picture = pictures.read(file, files.name(place), self._mode, self._decode)
            except FileFormatError as error:
                raise FileFormatError(f"{error}; mend it, or leave out all such files with {_SKIP}") from error
        return np.asarray(self._transform(picture).numpy())

    def digest(self) -> str:
        state = hashlib.blake2b(repr((self.classes, self.settings)).encode(), digest_size=16)
        for part, files in self.parts.items():
            for place, label in zip(self._readable(part), self.labels(part), strict=True):
                file: Any
                with files.open(int(place)) as file:
                    content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
                state.update(f"{part} {label} {content.hexdigest()}".encode())
        return state.hexdigest()

    def read_by(self, decode: Callable[[bytes], Any] | None = None, resize: Callable[..., Any] | None = None) -> Self:
        """Returns the same pictures as another program reads them.

        Args:
            decode: makes pixels, (H, W, 3) uint8, of the content of a JPEG file.
            resize: takes a picture of Pillow's and a size, (width, height), and returns the picture of that size.

        Raises:
            InvalidInputError: another program decodes or resizes them already; a picture is not read twice.
        """
        resized = any(isinstance(step, partial) for step in self._transform.transforms)
        if (decode is not None and self._decode is not None) or (resize is not None and resized):
            what = "resized" if resize is not None else "decoded"
            raise InvalidInputError(f"{self.name}: photographs are {what} once; its name says it twice")
        other = copy(self)
        other._decode = decode or self._decode
        if resize is not None:
            other._transform = copy(self._transform)
            other._transform.transforms = [
                partial(_resized, step=step, resize=resize) if "Resize" in type(step).__name__ else step
                for step in self._transform.transforms
            ]
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.classes)} classes, {self.settings})"

    @property
    def _mode(self) -> str:
        return "L" if self.input_shape[0] == 1 else "RGB"

    def _readable(self, part: str) -> NDArray[np.int64]:
        """Returns the places of the files that make up a part, after looking at all of them once."""
        if part not in self._kept:
            self._kept[part] = self._look(part)
        return self._kept[part]

    def _look(self, part: str) -> NDArray[np.int64]:
        files, where = self.parts[part], f"data set {self.name!r}, {part}"

        def look(place: int) -> tuple[str, list[str]]:
            with files.open(place) as file:
                return pictures.look(file, files.name(place), self._mode, whole=self.skip_bad)

        with ThreadPoolExecutor() as threads:
            found = list(threads.map(look, range(len(files.labels))))
        faults = [fault for fault, _ in found if fault]
        good = np.array([place for place, (fault, _) in enumerate(found) if not fault], dtype=np.int64)
        if faults and not self.skip_bad:
            raise FileFormatError(f"{where}: {some(faults, 10)}; mend them, or leave them out with {_SKIP}")
        missing = [name for label, name in enumerate(self.classes) if label not in set(files.labels[good])]
        if missing and not self.skip_bad:
            raise FileFormatError(f"{where}: no picture of {some(missing)}; if that is meant, say {_SKIP}")
        if not len(good):
            raise FileFormatError(f"{where}: expected pictures, found none")
        changed = defaultdict[str, list[str]](list)
        for place, (_, changes) in enumerate(found):
            for change in changes:
                changed[change].append(files.name(place))
        said = [f"{len(names):,} {change} ({some(names, 1)})" for change, names in changed.items()]
        said = [f"of {len(good):,} pictures {', '.join(said)} are read as {self._mode}, upright"] if said else []
        said += [f"left out: {some(faults, 10)}"] if faults else []
        said += [f"no picture of {some(missing)}"] if missing else []
        if said:
            warnings.warn(f"{where}: {'; '.join(said)}", PictureWarning, stacklevel=4)
        return good


def _settings(network: Any, input_shape: Sequence[int] | None) -> dict[str, Any]:
    """Returns how timm's config of a network has its images resized and cropped."""
    import timm

    from qadv.modes import held_network

    config = getattr(network, "pretrained_cfg", None) or {}
    if isinstance(network, str):
        named = timm.get_pretrained_cfg(network.removeprefix("timm/"))
        config = {} if named is None else named.to_dict()
    elif network is not None and not any(config.get(key) for key in _SETTINGS):
        warnings.warn(
            f"{type(held_network(network)).__name__} does not say how photographs become its images: they are resized "
            "and cropped as timm does where nothing is said, bicubic, the middle 87.5 %. A network of timm's says it, "
            "and a file that was saved or exported of one",
            PictureWarning,
            stacklevel=6,
        )
    given = {} if input_shape is None else {"input_size": tuple(input_shape)}
    settings: dict[str, Any] = timm.data.resolve_data_config(given, config or {"input_size": (3, 224, 224)})
    if len(settings["input_size"]) != 3 or settings["input_size"][0] not in (1, 3):
        raise InvalidInputError(f"input_shape: expected 1 or 3 channels, height, width, got {settings['input_size']}")
    return {**{key: settings[key] for key in _SETTINGS}, "mean": settings["mean"], "std": settings["std"]}


def _resized(picture: Any, step: Callable[[Any], Any], resize: Callable[..., Any]) -> Any:
    """Returns a picture of the size that `step` gives it."""
    return resize(picture, step(picture).size)


def _transform(settings: dict[str, Any]) -> Any:
    """Returns timm's transform for evaluation without its last step: a classifier standardises its images itself."""
    import timm

    transform: Any = timm.data.create_transform(**settings)
    transform.transforms.pop()
    return transform


def _split(files: Files, share: float, seed: int, name: str) -> dict[str, Files]:
    """Returns the files to train and to test on, `share` of each class, drawn from `seed`."""
    from sklearn.model_selection import train_test_split

    try:
        places = train_test_split(
            np.arange(len(files.labels)), test_size=share, random_state=seed, stratify=files.labels
        )
    except ValueError as error:
        raise InvalidInputError(f"data set {name!r} can't be split, {share} of each class to test: {error}") from error
    return {part: files[each] for part, each in zip(PARTS, places, strict=True)}
