"""Cells: the units of a study that are computed once, each keyed by all that determines it."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from typing import Any

from qadv.benchmark.specs import Spec
from qadv.benchmark.study import StudyPart

FILES = {"network": "network.safetensors", "attack": "adversarial.safetensors"}  # by the kinds of cells that have one
_PACKAGES = ("qadv", "torch", "adversarial-robustness-toolbox", "brevitas", "timm", "numpy")


@dataclass(frozen=True)
class Cell:
    """One unit of work, shown to people as `label`.

    Attributes:
        spec: all that determines the result, other cells by their keys.
        place: dataset, backbone, quantizer, defense, seed, and attack, source or measure, as the study calls them.
        needs: keys of the cells whose results it takes.
    """

    kind: str
    spec: Spec
    label: str = field(compare=False)
    place: Mapping[str, Any] = field(compare=False)
    needs: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """The hash of `spec`."""
        return digest(self.spec)


@dataclass(frozen=True)
class Finished:
    """The result of a cell: `record` is plain data, `files` are the contents by name."""

    record: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


def digest(content: Any) -> str:
    """Returns the BLAKE2 hash of plain data or a spec, 32 hexadecimal digits; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False, default=StudyPart.model_dump)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Returns the versions of what computes the results."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}
