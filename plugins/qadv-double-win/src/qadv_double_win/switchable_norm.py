"""`switchable-norm`: a backbone with one BatchNorm for each precision, statistics, scale and shift."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

import qadv
from qadv.errors import InvalidInputError
from qadv_double_win.precision import HasPrecision, check_precisions

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SwitchableNorm(HasPrecision):
    """Several copies of one BatchNorm, of which the one for the present precision works.

    Args:
        norm: what is copied; its class may add something behind, as timm's BatchNormAct2d does.
        precisions: ascending; the last is the first to work, also in a network that is not quantized.
    """

    def __init__(self, norm: nn.Module, precisions: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in precisions)
        self.start_with(precisions)

    @property
    def index(self) -> int:
        """Which of `norms` works now."""
        return self.precisions.index(self.precision)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → the same."""
        normed: Tensor = self.norms[self.index](x)
        return normed

    def extra_repr(self) -> str:
        return f"precisions={self.precisions}, precision={self.precision}"


def switch_norms(model: nn.Module, precisions: Sequence[int]) -> nn.Module:
    """Replaces each BatchNorm of a float network by a `SwitchableNorm`, in place, and returns the network.

    Raises:
        InvalidInputError: there is no BatchNorm, or they are switchable already.
    """
    chosen = check_precisions(precisions)
    if any(isinstance(module, SwitchableNorm) for module in model.modules()):
        raise InvalidInputError("the network has switchable BatchNorms already")
    new: dict[nn.Module, SwitchableNorm] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):  # one may have several names
        if isinstance(module, _BATCH_NORMS):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new.setdefault(module, SwitchableNorm(module, chosen)))
    if not new:
        raise InvalidInputError(f"{type(model).__name__} has no BatchNorm to switch; use the backbone itself")
    return model


def switchable_norm(
    nb_classes: int = 10,
    in_channels: int = 3,
    backbone: str = "resnet20",
    precisions: Sequence[int] = (4, 5, 6, 7, 8),
    **options: Any,
) -> nn.Module:
    """Returns a backbone with one BatchNorm for each precision.

    Args:
        nb_classes: number of logits.
        in_channels: channels of the images.
        backbone: any backbone's name.
        precisions: those that the network will be trained and run at, 2 to 16 bits.
        options: of that backbone.

    Raises:
        UnknownNameError: there is no such backbone.
        InvalidInputError: it has no BatchNorm, or the precisions are off.
    """
    chosen = check_precisions(precisions)
    if not isinstance(backbone, str):
        raise InvalidInputError(f"backbone: expected a backbone's name, e.g. 'resnet20', got {backbone!r}")
    return switch_norms(
        qadv.create("backbone", backbone, nb_classes=nb_classes, in_channels=in_channels, **options), chosen
    )
