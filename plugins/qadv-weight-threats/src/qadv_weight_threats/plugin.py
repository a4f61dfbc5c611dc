"""What this distribution provides to qadv."""

from collections.abc import Iterable

import qadv
from qadv.components import Attack, AuditCheck, Diagnostic, Transformer


@qadv.hookimpl
def qadv_diagnostics() -> Iterable[Diagnostic]:
    yield Diagnostic(
        name="bit-flips",
        target="qadv_weight_threats.bit_flip:bit_flips",
        summary="which few flipped bits of the stored weights break a network",
    )


@qadv.hookimpl
def qadv_attacks() -> Iterable[Attack]:
    yield Attack(
        name="rounded-transfer",
        target="qadv_weight_threats.rounded_transfer:RoundedTransfer",
        summary="white-box, L-inf: 8-bit images that hold on a network at several precisions",
    )


@qadv.hookimpl
def qadv_transformers() -> Iterable[Transformer]:
    yield Transformer(
        name="error-guided-rounding",
        target="qadv_weight_threats.error_guided_rounding:ErrorGuidedRounding",
        summary="rounds weights near ties the other way, and keeps what layers give: shuts backdoors of quantizing",
    )


@qadv.hookimpl
def qadv_audit_checks() -> Iterable[AuditCheck]:
    yield AuditCheck(
        name="rounding-errors",
        target="qadv_weight_threats.rounding_check:RoundingErrors",
        summary="rounding errors do no more than random ones as large",
    )
