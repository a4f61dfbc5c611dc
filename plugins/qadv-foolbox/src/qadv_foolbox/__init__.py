"""Foolbox's attacks as ART attacks, under Foolbox's own names, and qadv's classifiers as Foolbox models.

from qadv_foolbox import LinfPGD, as_foolbox
"""

import importlib
from typing import Any

_PUBLIC = {
    "FoolboxAttack": "qadv_foolbox.attacks",
    "as_foolbox": "qadv_foolbox.model",
    "attack_class": "qadv_foolbox.attacks",
    "attack_names": "qadv_foolbox.attacks",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports what is asked for, torch and Foolbox with it: a public name, or the attack that Foolbox calls so."""
    from qadv_foolbox.catalogue import classes, left_out

    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name.startswith("_") or name not in classes() or name in left_out():
        raise AttributeError(f"module 'qadv_foolbox' has no attribute {name!r}")
    return importlib.import_module("qadv_foolbox.attacks").attack_class(name)
