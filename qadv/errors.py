"""The exceptions qadv raises. Each message says what was expected, what came, and what to do next."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# C0, C1, what turns the direction of writing, and what is no UTF-8 in the name of a file
_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


class QadvError(Exception):
    """Base class: `except QadvError` catches everything that qadv itself refuses."""


class InvalidInputError(QadvError, ValueError):
    """An argument has the wrong shape, dtype, range or value."""


class SchemeError(QadvError, ValueError):
    """A quantization scheme is unknown, or does not exist at the bits asked for."""


class UnsupportedModelError(QadvError, ValueError):
    """A network has nothing to quantize, or layers that would silently stay in full precision."""


class UnknownNameError(QadvError, LookupError):
    """No component of that kind has that name."""


class AmbiguousNameError(QadvError, LookupError):
    """Two distributions provide a component of the same kind and name, and the bare name was used."""


class PluginError(QadvError, RuntimeError):
    """A plugin is broken; the message names its distribution and the cause."""


class MissingRequirementError(QadvError, ImportError):
    """A component needs a distribution that is not installed, or another version of it."""


class FileFormatError(QadvError, ValueError):
    """A file is truncated, foreign, or does not fit the model it is loaded into."""


class StorageError(QadvError, OSError):
    """A file could not be written; what was saved before is untouched."""


class TrainingError(QadvError, ArithmeticError):
    """Training can't go on: the loss is not finite."""


class AttackError(QadvError, ArithmeticError):
    """An attack can't go on: logits or gradients are not finite."""


class NoGradientError(AttackError):
    """A network has no gradient of its logits with respect to its images."""


class MaskedGradientWarning(UserWarning):
    """A gradient at the input is exactly zero: attacks by gradients say nothing about these images."""


class PixelRangeWarning(UserWarning):
    """Images and what the network was trained on seem not to fit: standardised images, or no standardisation."""


class PictureWarning(UserWarning):
    """Files of a data set are no plain pictures: they are converted, or left out as was asked."""


class AuditInterrupted(KeyboardInterrupt):
    """Ctrl-C in an audit; `result` is that of the shards that are finished, from the first on, or `None`."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


def closest(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean a, b?"` with the nearest of `known`, or `"."` when nothing is near."""
    known = list(known)
    near = get_close_matches(name.lower(), {each.lower() for each in known}, n=3, cutoff=0.5)
    matches = sorted((each for each in known if each.lower() in near), key=lambda each: near.index(each.lower()))
    return f"; did you mean {', '.join(matches)}?" if matches else "."


def printable(text: str) -> str:
    """Returns a text whose control characters, which could change what a terminal shows, are escaped."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def some(names: Iterable[str], most: int = 3) -> str:
    """Returns the first names, and how many more there are: `"a, b, c and 2 more"`."""
    found = [printable(name) for name in names]
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def describe(error: BaseException) -> str:
    """Returns an error's class and message, whatever its `__str__` does."""
    try:
        text = str(error)
    except Exception:
        text = "(its message can't be shown)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
