"""Foolbox's attacks as ART attacks, under Foolbox's own names, and qadv's classifiers as Foolbox models.

from qadv_foolbox import LinfPGD, as_foolbox
"""

from typing import Any

__all__ = ["FoolboxAttack", "as_foolbox", "attack_class", "attack_names"]


def __getattr__(name: str) -> Any:  # torch and Foolbox are imported when something of theirs is asked for
    if name == "as_foolbox":
        from qadv_foolbox.model import as_foolbox

        return as_foolbox
    if name.startswith("__"):
        raise AttributeError(f"module 'qadv_foolbox' has no attribute {name!r}")
    from qadv.errors import UnknownNameError
    from qadv_foolbox import attacks

    if name in __all__:
        return getattr(attacks, name)
    try:
        return attacks.attack_class(name)
    except UnknownNameError as error:
        raise AttributeError(f"module 'qadv_foolbox' has no attribute {name!r}: {error}") from error
