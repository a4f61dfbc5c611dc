"""Corrections after quantizing: BatchNorm re-estimation and bias correction, both against the float network."""

from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

_CONVOLUTIONS = nn.modules.conv._ConvNd
_LAYERS = (_CONVOLUTIONS, nn.Linear)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def correct(model: nn.Module, original: nn.Module, batches: list[Tensor], batch_norm: bool, bias: bool) -> None:
    """Brings means and variances inside a quantized network back to the float network's, in place.

    One pass of each network. What is measured at a place is measured behind places that are corrected already.

    Args:
        model: the quantized network, in evaluation mode.
        original: the float network, with the same names of layers, in evaluation mode.
        batches: images.
        batch_norm: gives each BatchNorm the statistics with which it normalises its new input as it did the old one.
        bias: gives each convolution and linear layer with a bias the mean output it had, per channel, and each
            BatchNorm the mean.
    """
    floats = dict(original.named_modules())
    places: list[_Shift | _Restandardisation] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            twin: Any = floats.get(name)
            own: Any = module
            if bias and isinstance(own, _LAYERS) and isinstance(twin, _LAYERS) and own.bias is not None:
                shift = _Shift(own)
                hooks.callback(twin.register_forward_hook(shift.remember).remove)
                hooks.callback(own.register_forward_hook(shift.apply).remove)
                places.append(shift)
            elif isinstance(own, _BATCH_NORM) and isinstance(twin, _BATCH_NORM) and own.running_mean is not None:
                again = _Restandardisation(twin, own, variance=batch_norm)
                hooks.callback(twin.register_forward_pre_hook(again.remember).remove)
                hooks.callback(own.register_forward_pre_hook(again.apply).remove)
                places.append(again)
        for batch in batches:
            original(batch)
            model(batch)
    for place in places:
        place.keep()


class _Shift:
    """The mean output of one layer, per channel, against that of its float twin."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.expected: list[Tensor] = []
        self.missing: list[Tensor] = []

    def remember(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self.expected.append(_mean(output, _channel_dim(layer, output)))

    def apply(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        channels = _channel_dim(layer, output)
        missing = self.expected.pop(0) - _mean(output, channels)  # a layer's first call first
        self.missing.append(missing)
        return output + _expand(missing, output, channels)

    def keep(self) -> None:
        if self.missing:
            self.layer.bias += torch.stack(self.missing).mean(0)


class _Restandardisation:
    """The input of one BatchNorm, brought to the mean, and variance if asked, that its float twin's input has.

    With r the ratio of the float input's deviation to the quantized one's, the float BatchNorm of `(x - m_q) r + m_f`
    is the BatchNorm of x with mean `m_q + (m - m_f) / r` and variance `(v + ε) / r² - ε`, where m and v are the float
    network's running statistics. Taking the mean and variance of x themselves instead would also undo the difference
    between running statistics and those of the calibration images, on which a float network relies as well.
    """

    def __init__(self, original: Any, norm: Any, variance: bool) -> None:
        self.original = original
        self.norm = norm
        self.variance = variance
        self.expected: list[tuple[Tensor, Tensor]] = []
        self.measured: dict[str, list[Tensor]] = defaultdict(list)

    def remember(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.expected.append((_mean(inputs[0], 1), _variance(inputs[0])))

    def apply(self, norm: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        x = inputs[0]
        float_mean, float_variance = self.expected.pop(0)
        mean, ratio = _mean(x, 1), torch.ones_like(float_variance)
        if self.variance:
            ratio = ((float_variance + norm.eps) / (_variance(x) + norm.eps)).sqrt()
        new_mean = mean + (self.original.running_mean - float_mean) / ratio
        new_variance = (self.original.running_var + norm.eps) / ratio.square() - norm.eps
        self.measured["mean"].append(new_mean)
        self.measured["variance"].append(new_variance)
        # the BatchNorm still has other statistics m', v': this input gives what it will give with the new ones
        gain = ((norm.running_var + norm.eps) / (new_variance + norm.eps)).sqrt()
        return (_expand(gain, x, 1) * (x - _expand(new_mean, x, 1)) + _expand(norm.running_mean, x, 1),)

    def keep(self) -> None:
        if self.measured:
            self.norm.running_mean.copy_(torch.stack(self.measured["mean"]).mean(0))
            self.norm.running_var.copy_(torch.stack(self.measured["variance"]).mean(0).clamp(min=0))


def _channel_dim(layer: nn.Module, output: Tensor) -> int:
    return 1 if isinstance(layer, _CONVOLUTIONS) else output.ndim - 1


def _mean(x: Tensor, channels: int) -> Tensor:
    return x.mean(dim=[d for d in range(x.ndim) if d != channels])


def _variance(x: Tensor) -> Tensor:
    return x.var(dim=[d for d in range(x.ndim) if d != 1], unbiased=False)


def _expand(values: Tensor, x: Tensor, channels: int) -> Tensor:
    return values.reshape([-1 if d == channels else 1 for d in range(x.ndim)])
