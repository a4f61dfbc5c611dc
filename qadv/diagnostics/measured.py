"""Results of diagnostics as plain data for JSON, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

import numpy as np


@dataclass(frozen=True)
class Measured:
    """Base of what is measured: numbers, texts, tuples, arrays, and others of its kind; prints as a table."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        values = {field: getattr(self, field.name) for field in fields(self)}
        return {f.name: _plain(value) for f, value in values.items() if value is not None or f.default is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Returns the object that `to_dict` was called on."""
        return cls(**{name: _typed(data[name], kind) for name, kind in get_type_hints(cls).items() if name in data})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        entries = value.astype(object)
        entries[np.isnan(value)] = None  # JSON knows no NaN
        return entries.tolist()
    if isinstance(value, Enum):
        return value.value
    return value.to_dict() if hasattr(value, "to_dict") else value


def _typed(value: Any, kind: Any) -> Any:
    kind = get_args(kind)[0] if get_origin(kind) is UnionType else kind  # the other one is None
    if isinstance(value, list):
        if get_origin(kind) is tuple:
            return tuple(_typed(entry, get_args(kind)[0]) for entry in value)
        return np.array(value, np.int64 if "int64" in str(kind) else float)
    if isinstance(value, Mapping) and is_dataclass(kind):
        made: Any = getattr(kind, "from_dict", None)
        return made(value) if made else kind(**value)  # type: ignore[operator]
    # "inf", which JSON has no number for, and names of an enumeration
    as_text = isinstance(value, str | int) and isinstance(kind, type) and issubclass(kind, float | Enum)
    return kind(value) if as_text else value
