"""What this distribution provides to qadv."""

from collections.abc import Iterator

import qadv
from qadv.components import Attack

_REQUIRES = ("pyautoattack>=0.2",)


@qadv.hookimpl
def qadv_attacks() -> Iterator[Attack]:
    for name, target, summary in (
        ("autoattack", "auto_attack:AutoAttack", "official AutoAttack, L-inf, L2, L1: four attacks, image by image"),
        ("aa-apgd-ce", "apgd:APGDCE", "AutoAttack's APGD on the cross-entropy"),
        ("aa-apgd-dlr", "apgd:APGDDLR", "AutoAttack's APGD on the difference of logits ratio"),
        ("aa-apgd-t", "apgd:APGDT", "AutoAttack's APGD on the targeted DLR loss, class after class"),
        ("aa-fab", "fab:FAB", "AutoAttack's FAB: smallest change, kept where within eps"),
        ("aa-fab-t", "fab:FABT", "AutoAttack's FAB towards class after class"),
        ("aa-square", "square:Square", "AutoAttack's Square: black-box, random squares"),
    ):
        yield Attack(name=name, target=f"qadv_autoattack.{target}", summary=summary, requires=_REQUIRES)
