"""What this distribution provides to qadv."""

from collections.abc import Iterable

import qadv
from qadv.components import Backbone, Quantizer, Trainer


@qadv.hookimpl
def qadv_quantizers() -> Iterable[Quantizer]:
    yield Quantizer(
        name="switchable",
        target="qadv_double_win.switchable:Switchable",
        summary="weights and activations, 2-16 bits: any precision up to that, switched without rebuilding",
    )


@qadv.hookimpl
def qadv_backbones() -> Iterable[Backbone]:
    yield Backbone(
        name="switchable-norm",
        target="qadv_double_win.switchable_norm:switchable_norm",
        summary="another backbone with one BatchNorm for each precision",
    )


@qadv.hookimpl
def qadv_trainers() -> Iterable[Trainer]:
    yield Trainer(
        name="double-win",
        target="qadv_double_win.double_win:DoubleWinTrainer",
        summary="random precision training: PGD at a precision drawn in each step",
    )
