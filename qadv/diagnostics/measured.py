"""Results of diagnostics as plain data for JSON, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, get_origin, get_type_hints

import numpy as np


@dataclass(frozen=True)
class Measured:
    """Base of what is measured: numbers, texts, tuples and arrays; prints as a table."""

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
    return value.to_dict() if isinstance(value, Measured) else value


def _typed(value: Any, kind: Any) -> Any:
    if not isinstance(value, list):
        return value
    return tuple(value) if get_origin(kind) is tuple else np.array(value, np.int64 if "int64" in str(kind) else float)
