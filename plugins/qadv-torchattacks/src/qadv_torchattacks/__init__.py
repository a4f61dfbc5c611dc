"""torchattacks' attacks as ART attacks, under torchattacks' own names, and qadv's classifiers as modules for it.

from qadv_torchattacks import PGD, as_torchattacks
"""

from typing import Any

__all__ = ["TorchattacksAttack", "as_torchattacks", "attack_class", "attack_names"]


def __getattr__(name: str) -> Any:  # torch and torchattacks are imported when something of theirs is asked for
    if name == "as_torchattacks":
        from qadv_torchattacks.module import as_torchattacks

        return as_torchattacks
    if name.startswith("__"):
        raise AttributeError(f"module 'qadv_torchattacks' has no attribute {name!r}")
    from qadv.errors import UnknownNameError
    from qadv_torchattacks import attacks

    if name in __all__:
        return getattr(attacks, name)
    try:
        return attacks.attack_class(name)
    except UnknownNameError as error:
        raise AttributeError(f"module 'qadv_torchattacks' has no attribute {name!r}: {error}") from error
