"""ART's families of attacks, told by what an attack gives: images, a copy, knowledge or poisoned images."""

from contextlib import suppress
from functools import partial
from typing import Any

from qadv.attacks import art_catalogue
from qadv.checks import check_choice
from qadv.errors import InvalidInputError, QadvError
from qadv.registry import Entry

_GIVES = {  # by the methods of ART's base classes; two of its poisoning attacks have `Attack` alone as a base
    "poison": "poisoning",
    "poison_estimator": "poisoning",
    "extract": "extraction",
    "infer": "inference",
    "reconstruct": "inference",
}
FAMILIES = ("evasion", *dict.fromkeys(_GIVES.values()))
_MEASURED_BY = {
    "extraction": "`extraction`",
    "inference": "`membership-inference` or, for MIFace, `inversion`",
    "poisoning": "`backdoor`",
}


def family_of(attack: Any) -> str:
    """Returns the family of an attack, its class, or the function that makes it: evasion unless its class says more."""
    if isinstance(attack, partial) and attack.func is art_catalogue.create:
        attack = art_catalogue.attack_class(attack.args[0])
    return next((family for method, family in _GIVES.items() if hasattr(attack, method)), "evasion")


def entry_family(entry: Entry, member: str = "") -> str:
    """Returns the family of a component, or of a member of it; evasion, as most are, where it can't be loaded."""
    target = None
    with suppress(QadvError):
        target = entry.load()
    return family_of(partial(target, member) if target and member else target)


def check_family(kind: str | None, family: str) -> None:
    """Raises an `InvalidInputError` for a family that no attacks have, and for other kinds than attacks."""
    check_choice("--family", family, FAMILIES)
    if kind != "attack":
        raise InvalidInputError(f"--family is for attacks: qadv list attack --family {family}")


def refusal(name: str, family: str) -> str:
    """Returns what an attack of another family than evasion is told where adversarial images are wanted."""
    said = f"{name} is an attack of the family {family!r} and makes no adversarial images"
    return f"{said}; what it finds is measured by {_MEASURED_BY[family]}"
