"""Evasion attacks: those that ART lacks, one per file, and ART's own by name."""

from qadv.checks import check_flag, check_number, check_whole
from qadv.strengths import check_eps

__all__ = ["check_eps", "check_flag", "check_number", "check_whole"]
