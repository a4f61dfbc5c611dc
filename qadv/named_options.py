"""A component and its options as one writes them on a command line: `pgd:eps=8/255,max_iter=20`."""

import re
import tomllib
from collections.abc import Iterable
from typing import Any

from qadv.errors import InvalidInputError
from qadv.strengths import is_fraction

_TEXT = re.compile(r"[\w./+-]{1,200}")  # that needs no quotes
_HINT = "expected NAME or NAME:option=value, several parted by commas, e.g. bit-depth:bit_depth=3"


def named_options(text: str) -> tuple[str, dict[str, Any]]:
    """Returns the name and the options that `NAME:option=value,…` says, values as in a study file or plain text."""
    name, _, listed = text.partition(":")
    if not listed:
        return name, {}
    try:
        return name, _toml(listed)
    except (ValueError, RecursionError):
        return name, options_of(listed.split(","))


def options_of(given: Iterable[str]) -> dict[str, Any]:
    """Returns the options that `option=value` texts say; a value that is not TOML is text, as in `eps=8/255`."""
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = map(str.strip, text.partition("="))
        if not name or not equals or not value:
            raise InvalidInputError(f"{text[:80]!r}: {_HINT}")
        try:
            options |= _toml(f"{name}={value}")
        except (ValueError, RecursionError) as error:  # e.g. a number with thousands of digits
            if not _TEXT.fullmatch(value) and not is_fraction(value):
                raise InvalidInputError(f"{text[:80]!r}: {_HINT}") from error
            options[name] = value
    return options


def _toml(listed: str) -> dict[str, Any]:
    return dict(tomllib.loads(f"options = {{{listed}}}")["options"])
