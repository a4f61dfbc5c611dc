"""Corrections after quantizing: BatchNorm re-estimation and bias correction, both against the float network."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qadv.recording import recording

_CONVOLUTIONS = nn.modules.conv._ConvNd
_LAYERS = (_CONVOLUTIONS, nn.Linear)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def correct(model: nn.Module, original: nn.Module, batches: Iterable[Tensor], batch_norm: bool, bias: bool) -> None:
    """Corrects means and variances inside a quantized network towards the float network's, in place.

    One pass of each network, both in evaluation mode, with the same names of layers. What is measured at a place is
    measured behind places that are corrected already. With `batch_norm` each BatchNorm gets the statistics with which
    it normalises its new input as it did the old one; with `bias` each convolution and linear layer with a bias gets
    the mean output it had, per channel, and each BatchNorm the mean.
    """
    floats = dict(original.named_modules())
    places: list[_Shift | _Restandardisation] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            twin: Any = floats.get(name)
            own: Any = module
            if bias and isinstance(own, _LAYERS) and isinstance(twin, _LAYERS) and own.bias is not None:
                shift = _Shift(own)
                hooks.enter_context(recording({name: twin}, leaving=shift.remember))
                hooks.enter_context(recording({name: own}, leaving=shift.apply))
                places.append(shift)
            elif isinstance(own, _BATCH_NORM) and isinstance(twin, _BATCH_NORM) and own.running_mean is not None:
                again = _Restandardisation(twin, own, variance=batch_norm)
                hooks.enter_context(recording({name: twin}, again.remember))
                hooks.enter_context(recording({name: own}, again.apply))
                places.append(again)
        for batch in batches:
            original(batch)
            model(batch)
    for place in places:
        place.keep()


@dataclass
class _Shift:
    """The mean output of one layer, per channel, against that of its float twin."""

    layer: Any
    expected: list[Tensor] = field(default_factory=list)
    missing: list[Tensor] = field(default_factory=list)

    def remember(self, name: str, inputs: Any, output: Tensor) -> None:
        self.expected.append(_mean(output, self._channel_dim(output)))

    def apply(self, name: str, inputs: Any, output: Tensor) -> Tensor:
        channels = self._channel_dim(output)
        missing = self.expected.pop(0) - _mean(output, channels)  # a layer's first call first
        self.missing.append(missing)
        return output + _expand(missing, output, channels)

    def keep(self) -> None:
        if self.missing:
            self.layer.bias += torch.stack(self.missing).mean(0)

    def _channel_dim(self, output: Tensor) -> int:
        return 1 if isinstance(self.layer, _CONVOLUTIONS) else output.ndim - 1


@dataclass
class _Restandardisation:
    """The input of one BatchNorm, brought to the mean, and variance if asked, that its float twin's input has.

    With r the ratio of the float input's deviation to the quantized one's, the float BatchNorm of `(x - m_q) r + m_f`
    is the BatchNorm of x with mean `m_q + (m - m_f) / r` and variance `(v + ε) / r² - ε`, where m and v are the float
    network's running statistics. Taking the mean and variance of x themselves instead would also undo the difference
    between running statistics and those of the calibration images, on which a float network relies as well.
    """

    original: Any
    norm: Any
    variance: bool
    expected: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    measured: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def remember(self, name: str, inputs: tuple[Tensor, ...]) -> None:
        self.expected.append((_mean(inputs[0], 1), _variance(inputs[0])))

    def apply(self, name: str, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        norm, x = self.norm, inputs[0]
        float_mean, float_variance = self.expected.pop(0)
        mean, ratio = _mean(x, 1), torch.ones_like(float_variance)
        if self.variance:
            ratio = ((float_variance + norm.eps) / (_variance(x) + norm.eps)).sqrt()
        new_mean = mean + (self.original.running_mean - float_mean) / ratio
        new_variance = (self.original.running_var + norm.eps) / ratio.square() - norm.eps
        self.measured.append((new_mean, new_variance))
        # the BatchNorm still has other statistics m', v': this input gives what it will give with the new ones
        gain = ((norm.running_var + norm.eps) / (new_variance + norm.eps)).sqrt()
        return (_expand(gain, x, 1) * (x - _expand(new_mean, x, 1)) + _expand(norm.running_mean, x, 1),)

    def keep(self) -> None:
        if self.measured:
            mean, variance = (torch.stack(found).mean(0) for found in zip(*self.measured, strict=True))
            self.norm.running_mean.copy_(mean)
            self.norm.running_var.copy_(variance.clamp(min=0))


def _mean(x: Tensor, channels: int) -> Tensor:
    return x.mean(dim=[d for d in range(x.ndim) if d != channels])


def _variance(x: Tensor) -> Tensor:
    return x.var(dim=[d for d in range(x.ndim) if d != 1], unbiased=False)


def _expand(values: Tensor, x: Tensor, channels: int) -> Tensor:
    return values.reshape([-1 if d == channels else 1 for d in range(x.ndim)])
