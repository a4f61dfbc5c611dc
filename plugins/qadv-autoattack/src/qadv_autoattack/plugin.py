"""What this distribution provides to qadv."""

from collections.abc import Iterator

import qadv
from qadv.components import Attack

_REQUIRES = ("pyautoattack>=0.2",)


@qadv.hookimpl
def qadv_attacks() -> Iterator[Attack]:
    for name, target, summary in (
        ("autoattack", "auto_attack:AutoAttack", "official AutoAttack, L-inf, L2, L1: worst case of four"),
        ("aa-apgd-ce", "apgd:APGDCE", "white-box: AutoAttack's PGD, cross-entropy"),
        ("aa-apgd-dlr", "apgd:APGDDLR", "white-box: AutoAttack's PGD, ratio of logits"),
        ("aa-apgd-t", "apgd:APGDT", "white-box: AutoAttack's PGD, class after class"),
        ("aa-fab", "fab:FAB", "white-box: AutoAttack's smallest change, if within eps"),
        ("aa-fab-t", "fab:FABT", "white-box: the same, class after class"),
        ("aa-square", "square:Square", "black-box: AutoAttack's random squares"),
    ):
        yield Attack(name=name, target=f"qadv_autoattack.{target}", summary=summary, requires=_REQUIRES)
