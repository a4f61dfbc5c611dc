"""The schema of `.tflite` files, which LiteRT ships, and what its numbers are called."""

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from qadv.errors import MissingRequirementError

LARGEST_VALUE = 2**28  # numbers in one tensor
DTYPES: dict[str, Any] = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "INT8": np.int8, "UINT8": np.uint8,
    "INT16": np.int16, "UINT16": np.uint16, "INT32": np.int32, "UINT32": np.uint32, "INT64": np.int64,
    "UINT64": np.uint64, "BOOL": np.bool_,
}  # fmt: skip


@cache
def schema() -> ModuleType:
    """Returns the module, or raises `MissingRequirementError`."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingRequirementError(f".tflite files need LiteRT: pip install ai-edge-litert ({error})") from error
    return schema_py_generated


@cache
def names(enumeration: str) -> dict[int, str]:
    """Returns what the numbers of an enumeration of the schema are called, as `{0: "ADD", …}` for `BuiltinOperator`."""
    members = vars(getattr(schema(), enumeration)).items()
    return {number: name for name, number in members if isinstance(number, int)}
