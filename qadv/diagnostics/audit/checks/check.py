"""What a check is."""

from typing import Protocol

from qadv.diagnostics.audit.case import Case
from qadv.diagnostics.audit.result import Finding


class Check(Protocol):
    """One reason to disbelieve a figure of robustness.

    Attributes:
        number: its number in the documentation and in tables.
        name: what is looked at.
        rule: when it passes.
    """

    number: int
    name: str
    rule: str

    def examine(self, case: Case) -> Finding:
        """Returns what was found; runs the attacks it needs through the case, which shares them."""
        ...
