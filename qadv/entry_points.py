"""Where plugins come from: the entry points of installed distributions, of which one may be damaged."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from qadv.errors import describe
from qadv.versions import metadata_field

ENTRY_POINT_GROUP = "qadv"


@dataclass(frozen=True)
class Origin:
    """The distribution that declares a plugin; unknown fields are empty, `fault` says what is wrong with it."""

    distribution: str
    version: str
    fault: str = ""


def find_entry_points() -> tuple[list[metadata.EntryPoint], list[Origin]]:
    """Returns the entry points for qadv, and the distributions whose entry points can't be read."""
    try:
        return list(metadata.entry_points(group=ENTRY_POINT_GROUP)), []
    except Exception:  # of any distribution, a plugin of qadv or not
        return _one_by_one(metadata.distributions())


def origin(distribution: metadata.Distribution | None) -> Origin:
    """Returns what is known of a distribution."""
    if distribution is None:
        return Origin("unknown", "", "its distribution is not known: it is not installed by pip")
    name, version = metadata_field(distribution, "Name"), metadata_field(distribution, "Version")
    if name:
        return Origin(name, version)
    folder: Any = getattr(distribution, "_path", None)  # public nowhere
    stem, _, version = Path(folder).stem.partition("-") if folder is not None else ("unknown", "", "")
    fault = "its distribution has no metadata that can be read: it is damaged, half removed, or not installed by pip"
    return Origin(stem.replace("_", "-"), version, fault)


def _one_by_one(distributions: Iterable[metadata.Distribution]) -> tuple[list[metadata.EntryPoint], list[Origin]]:
    found: dict[str, list[metadata.EntryPoint]] = {}  # by distribution: the first on the path hides the others
    unreadable: dict[str, Origin] = {}
    for distribution in distributions:
        try:
            points = list(distribution.entry_points.select(group=ENTRY_POINT_GROUP))
        except Exception as error:
            where = origin(distribution)
            fault = f"its entry points can't be read ({describe(error)})"
            unreadable.setdefault(where.distribution, Origin(where.distribution, where.version, fault))
            continue
        if points:
            found.setdefault(origin(distribution).distribution, points)
    return [point for points in found.values() for point in points], list(unreadable.values())
