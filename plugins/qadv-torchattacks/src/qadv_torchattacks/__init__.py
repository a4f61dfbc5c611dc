"""torchattacks' attacks as ART attacks, under torchattacks' own names, and qadv's classifiers as modules for it.

from qadv_torchattacks import PGD, as_torchattacks
"""

import importlib
from typing import Any

_PUBLIC = {
    "TorchattacksAttack": "qadv_torchattacks.attacks",
    "as_torchattacks": "qadv_torchattacks.module",
    "attack_class": "qadv_torchattacks.attacks",
    "attack_names": "qadv_torchattacks.attacks",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports what is asked for, and torch with it: a public name, or the attack that torchattacks calls so."""
    from qadv_torchattacks.catalogue import classes, left_out

    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name.startswith("_") or name not in classes() or name in left_out():
        raise AttributeError(f"module 'qadv_torchattacks' has no attribute {name!r}")
    return importlib.import_module("qadv_torchattacks.attacks").attack_class(name)
