"""ART's own evasion attacks by class name, unmodified."""

from typing import Any

import art.attacks.evasion
from art.attacks import EvasionAttack


def names() -> list[str]:
    """Returns the names of all evasion attack classes of the installed ART."""
    found = vars(art.attacks.evasion).items()
    return sorted(name for name, value in found if isinstance(value, type) and issubclass(value, EvasionAttack))


def create(name: str, *args: Any, **options: Any) -> Any:
    """Returns `art.attacks.evasion.<name>(*args, **options)`."""
    return getattr(art.attacks.evasion, name)(*args, **options)
