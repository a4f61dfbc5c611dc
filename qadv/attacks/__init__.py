"""Evasion attacks: those that ART lacks, one per file, and ART's own by name."""

from qadv.attacks.parameters import check_flag, check_number, check_whole

__all__ = ["check_flag", "check_number", "check_whole"]
