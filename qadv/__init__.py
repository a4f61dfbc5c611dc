"""qadv: quantized networks, attacked and defended through ART.

The public names, listed in `__init__.pyi`, are imported on first use, so that `import qadv` loads neither torch, ART,
Brevitas nor timm.
"""

import importlib
import pkgutil
import re
from typing import Any

__version__ = "0.1.0"

_STUB = (pkgutil.get_data("qadv", "__init__.pyi") or b"").decode()
_PUBLIC = {name: module for module, name in re.findall(r"^from (\S+) import (\w+)", _STUB, re.MULTILINE)}
__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qadv' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
