"""What this distribution provides to qadv."""

from collections.abc import Iterable

import qadv
from qadv.components import Diagnostic


@qadv.hookimpl
def qadv_diagnostics() -> Iterable[Diagnostic]:
    yield Diagnostic(
        name="bit-flips",
        target="qadv_weight_threats.bit_flip:bit_flips",
        summary="which few flipped bits of the stored weights break a network",
    )
