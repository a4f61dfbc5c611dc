"""Evasion attacks: those that ART lacks, one per file, ART's by name, and what attacks are made of."""

from qadv.attacks.draws import Generators, image_generators, normal, signs, uniform
from qadv.attacks.function_attack import Found, FunctionAttack
from qadv.attacks.goal import margin, wins
from qadv.attacks.options import Count, Eps, Length, OneOf, Part, Positive, PositiveLength, Radius, Seed, check_option
from qadv.checks import check_flag, check_number, check_whole
from qadv.strengths import check_eps

__all__ = [
    "Count",
    "Eps",
    "Found",
    "FunctionAttack",
    "Generators",
    "Length",
    "OneOf",
    "Part",
    "Positive",
    "PositiveLength",
    "Radius",
    "Seed",
    "check_eps",
    "check_flag",
    "check_number",
    "check_option",
    "check_whole",
    "image_generators",
    "margin",
    "normal",
    "signs",
    "uniform",
    "wins",
]
