"""The official versions: which parts run, in which order, with which settings."""

from typing import Any

from qadv_autoattack.apgd import APGDCE, APGDDLR, APGDT
from qadv_autoattack.fab import FAB, FABT
from qadv_autoattack.part import OfficialPart
from qadv_autoattack.square import Square

PARTS: dict[str, type[OfficialPart]] = {
    "apgd-ce": APGDCE,
    "apgd-dlr": APGDDLR,
    "apgd-t": APGDT,
    "fab": FAB,
    "fab-t": FABT,
    "square": Square,
}
VERSIONS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}


def part_options(version: str, norm: str) -> dict[str, dict[str, Any]]:
    """Returns the options of each part in a version, as the official code's `AutoAttack` sets them.

    Args:
        version: a key of `VERSIONS`.
        norm: `"Linf"`, `"L2"` or `"L1"`.
    """
    standard_l1 = version == "standard" and norm == "L1"
    apgd: dict[str, Any] = {
        "nb_random_init": 5 if version == "plus" or standard_l1 else 1,
        "eot_iter": 20 if version == "rand" else 1,
        "larger_eps": standard_l1,
    }
    return {
        "apgd-ce": apgd,
        "apgd-dlr": dict(apgd),
        "apgd-t": {"nb_targets": 5 if standard_l1 else 9, "larger_eps": standard_l1},
        "fab": {"nb_restarts": 1 if version == "standard" else 5},
        "fab-t": {"nb_targets": 9},
        "square": {},
    }


def parts_for(version: str, nb_answers: int) -> tuple[str, ...]:
    """Returns the parts of a version that exist for so many classes.

    The targeted DLR loss compares four logits, the DLR loss three: with three classes APGD-DLR runs in the place of
    APGD-T, with two neither does.
    """
    parts: list[str] = []
    for name in VERSIONS[version]:
        if name == "apgd-t" and nb_answers < PARTS[name].fewest_classes:
            name = "apgd-dlr"
        if nb_answers >= PARTS[name].fewest_classes and name not in parts:
            parts.append(name)
    return tuple(parts)
