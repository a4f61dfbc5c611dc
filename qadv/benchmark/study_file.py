"""Reads the TOML files of studies and of claims; every error has its line."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, time
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from qadv.benchmark.study import Study
from qadv.errors import FileFormatError, QadvError, StorageError, closest

Place = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)
SMALL = "small"
_DEEPEST, _LARGEST, _SHOWN, _LONGEST = 20, 2**63, 200, 2000
_ENTRY = 3  # below table.name.key pydantic says which type of a union it tried:
_ALTERNATIVE = re.compile(r"(str|float|int|Start|Source|(dict|list|literal)\[.*)")


class StudyError(FileFormatError):
    """A file of a study, or of claims, can't be understood; one line for each thing that is wrong, with its place."""


@dataclass(frozen=True)
class StudyFile:
    """A study, the file that it came from and its text, and whether these are the settings of its table `[small]`."""

    study: Study
    path: Path
    text: str
    small: bool

    @property
    def name(self) -> str:
        """The file's name without suffix, with `-small` for the small settings."""
        return self.path.stem + ("-small" if self.small else "")

    def complain(self, faults: Iterable[tuple[Place, str]]) -> StudyError:
        """Returns an error for what is wrong at some places."""
        return located(self.path, self.text, faults, self.small)


def read_study(path: str | Path, small: bool = False) -> StudyFile:
    """Reads a study from a TOML file; what it can't say is a `StudyError`, with its line.

    With `small`, the settings of its table `[small]` replace those of the same name; tables are merged.
    """
    path = Path(path)
    content, text = read_toml(path)
    changes = content.pop(SMALL, None)
    if small:
        if not isinstance(changes, dict):
            raise StudyError(f"{path}: --small needs a table [small] with the settings that differ; there is none")
        content = _merged(content, changes)
    return StudyFile(validated(Study, content, path, text, small), path, text, small)


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Returns what a TOML file says, and its text; a `StudyError` where it is none, or says what no study can."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: expected a text file in UTF-8: {error}") from error
    except OSError as error:
        raise StorageError(f"can't read {path}: {error.strerror or error}") from error
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path}: {error}") from error
    except RecursionError as error:
        raise StudyError(f"{path}: arrays or tables are nested too deep") from error
    except ValueError as error:  # Python reads no number with thousands of digits
        line = next((n for n, line in enumerate(text.splitlines(), 1) if re.search(r"[\d_]{4300}", line)), 1)
        raise StudyError(f"{path}:{line}: a number has too many digits") from error
    if unusable := list(_unusable(content, ())):
        raise located(path, text, unusable)
    return content, text


def validated(model: type[M], content: dict[str, Any], path: Path, text: str, small: bool = False) -> M:
    """Returns the content of a file as a model; a `StudyError` where it is none."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = [(fault["loc"], _said(fault, model)) for fault in error.errors()]
        raise located(path, text, faults, small) from error


def _unusable(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """Yields what TOML can say and a study can't: dates, numbers that are not finite or too long, deep nesting."""
    if len(place) > _DEEPEST:
        yield place[:_ENTRY], f"it is nested more than {_DEEPEST} deep"
    elif isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unusable(entry, (*place, key))
    elif isinstance(value, date | time):
        yield place, f"a study has no dates and times, got {value}"
    elif isinstance(value, float) and not isfinite(value):
        yield place, f'expected a finite number, got {value}; a norm without end is the text "inf"'
    elif isinstance(value, int) and abs(value) >= _LARGEST:
        yield place, "expected a whole number of at most 64 bits"


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(old.get(key), dict)
        result[key] = _merged(old[key], value) if both else value
    return result


def _said(fault: Any, model: type[BaseModel]) -> str:
    place, given = fault["loc"], fault["input"]
    if fault["type"] == "extra_forbidden":
        known = _fields(model, place[:-1])
        return f"there is no key {place[-1]!r} here{closest(str(place[-1]), known)} Keys: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"the key {place[-1]!r} is missing"
    if isinstance(error := fault.get("ctx", {}).get("error"), QadvError):
        return str(error)
    text = repr(given)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return f"{fault['msg'][0].lower()}{fault['msg'][1:]}, got {shown}"


def _fields(model: Any, place: Sequence[str | int]) -> list[str]:
    """Returns the keys that the table at a place may have."""
    for part in place:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[str(part)].annotation
        else:
            arguments = getattr(model, "__args__", ())
            named = [a for a in arguments if getattr(a, "__name__", "") == part]  # the alternative of a union
            models = [a for a in _leaves(model) if isinstance(a, type) and issubclass(a, BaseModel)]
            model = named[0] if named else models[0] if models else model
    found = [a for a in _leaves(model) if isinstance(a, type) and issubclass(a, BaseModel)]
    return list(found[0].model_fields) if found else []


def _leaves(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", None)
    return [leaf for part in inner for leaf in _leaves(part)] if inner else [annotation]


def located(path: Path, text: str, faults: Iterable[tuple[Place, str]], small: bool = False) -> StudyError:
    """Returns an error that names the lines of what is wrong in a TOML text."""
    lines = []
    for place, message in faults:
        known = [part for index, part in enumerate(place) if index < _ENTRY or not _ALTERNATIVE.fullmatch(str(part))]
        line = (line_of(text, (SMALL, *known), exact=True) if small else None) or line_of(text, known)
        name = ".".join(str(part) for part in known)
        if len(message) > _LONGEST:  # it quotes a text without end
            message = f"{message[: _LONGEST // 2]}…{message[-_LONGEST // 2 :]}"
        entry = f"{path}:{line}: {name}: {message}"
        if entry not in lines:
            lines.append(entry)
    return StudyError("\n".join(lines))


def line_of(text: str, place: Sequence[str | int], exact: bool = False) -> int | None:
    """Returns the line of a key in a TOML text, counted from 1, or of the nearest table round it.

    Keys are from the outermost on; numbers count the tables of `[[name]]`. With `exact` only the place itself will do.
    """
    best, depth = 1, 0
    table: tuple[str | int, ...] = ()
    counts: Counter[tuple[str, ...]] = Counter()
    wanted = tuple(place)
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?", line):
            names = tuple(_split(header[2]))
            table = (*names, counts[names]) if header[1] == "[[" else names
            counts[names] += 1
            found: tuple[str | int, ...] = table
        elif key := re.match(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=", line):
            found = (*table, *_split(key[1]))
            rest = line[key.end() :]
            # keys of an inline table stand in the same line, and so do entries of a list
            for part in wanted[len(found) :]:
                named = isinstance(part, int) or re.search(rf"\b{re.escape(part)}\b[\"']?\s*=", rest)
                if found == wanted[: len(found)] and named:
                    found = (*found, part)
        else:
            continue
        if len(found) > depth and found == wanted[: len(found)]:
            best, depth = number, len(found)
    return None if exact and depth < len(wanted) else best


def _split(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[\w-]+", dotted)]
