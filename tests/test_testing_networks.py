"""Backbones and quantization schemes that break one rule each are caught."""

import random

import torch
from torch import nn

from qadv.quantization import ActivationQuantizer, Scheme, WeightQuantizer
from qadv.testing import conformance
from tests.planted import Offenders

BACKBONES = Offenders("backbone", input_shape=(1, 8, 8))


def sound(nb_classes=10, in_channels=3, width=4):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * width, nb_classes),
    )


test_sound_backbone = conformance("backbone", sound, input_shape=(1, 8, 8), width=4)


@BACKBONES.breaks("contract", "function")
def no_module(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).forward.__func__


@BACKBONES.breaks("contract", "requires_grad=False")
def frozen(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).requires_grad_(False)


@BACKBONES.breaks("shape-and-dtype", "(2, 10)")
def ten_classes_only(nb_classes=10, in_channels=3):
    return sound(10, in_channels)


@BACKBONES.breaks("shape-and-dtype", "channels")
def grey_images_only(nb_classes=10, in_channels=3):
    return sound(nb_classes, 1)


@BACKBONES.breaks("logits", "probabilities")
def with_softmax(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).append(nn.Softmax(dim=1))


@BACKBONES.breaks("logits", "probabilities")
def with_log_softmax(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).append(nn.LogSoftmax(dim=1))


class BatchMean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@BACKBONES.breaks("batches", "others")
def with_batch_mean(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).append(BatchMean())


class Dropout(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x)


@BACKBONES.breaks("batches", "others")
def with_dropout_in_evaluation(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).append(Dropout())


class HalfGradient(nn.Module):
    def forward(self, x):
        return x / 2 + x.detach() / 2


@BACKBONES.breaks("gradient", "8 of 8 slopes differ")
def with_half_the_gradient(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).append(HalfGradient())


class HiddenScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.rand(1)

    def forward(self, x):
        return self.scale * x


@BACKBONES.breaks("copies", "the logits")
def with_a_hidden_scale(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).append(HiddenScale())


@BACKBONES.breaks("quantizes", "UnsupportedModelError")
def with_transposed_convolution(nb_classes=10, in_channels=3):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, nb_classes),
    )  # fmt: skip


class NoGradient(nn.Module):
    def forward(self, x):
        return (8 * x).round() / 8


@BACKBONES.breaks("attacked", "zero for 100%")
def with_rounding(nb_classes=10, in_channels=3):
    return nn.Sequential(NoGradient(), *sound(nb_classes, in_channels))


@BACKBONES.breaks("save-and-load", "by up to")
def with_a_scale_that_is_not_saved(nb_classes=10, in_channels=3):
    return sound(nb_classes, in_channels).append(HiddenScale())


test_backbone_caught = BACKBONES.test()
test_all_backbone_checks_have_an_offender = BACKBONES.test_all_checks_have_one()


class IntWeights(WeightQuantizer):
    """Symmetric integers, one scale per filter."""

    def encode(self, weight):
        scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / self.largest()
        return (weight / torch.where(scale > 0, scale, 1.0)).round(), scale

    def largest(self):
        return 2 ** (self.bits - 1) - 1

    def code_values(self):
        return torch.arange(-self.largest(), self.largest() + 1)


class Clip(ActivationQuantizer):
    """2^bits levels of [0, 4]."""

    @property
    def scale(self):
        return torch.tensor(4 / (2**self.bits - 1))

    def quantize(self, x):
        clipped = x.clamp(0.0, 4.0)
        return clipped + ((clipped / self.scale).round() * self.scale - clipped).detach()

    def levels(self):
        return torch.arange(2**self.bits) * self.scale

    def grid(self):
        return 0.0, 4.0, 2**self.bits - 1


class Weights(Scheme):
    bits_choices = range(3, 5)
    weights = IntWeights


class Activations(Scheme):
    bits_choices = range(3, 5)
    activations = Clip


test_sound_weights = conformance("quantizer", Weights)
test_sound_activations = conformance("quantizer", Activations)

QUANTIZERS = Offenders("quantizer")


def of(role, base):
    """Returns a decorator as `breaks` for the quantizer of a scheme that can be imported from this module."""

    def breaks(check, came=""):
        def plant(quantizer):
            name = quantizer.__name__ + "Scheme"
            globals()[name] = type(name, (base,), {role: quantizer, "__module__": __name__, "__qualname__": name})
            QUANTIZERS.breaks(check, came)(globals()[name])
            return quantizer

        return plant

    return breaks


of_weights = of("weights", Weights)
of_activations = of("activations", Activations)


@QUANTIZERS.breaks("contract", "neither")
class Nothing(Scheme):
    pass


@QUANTIZERS.breaks("contract", "[4, 3]")
class DescendingBits(Weights):
    bits_choices = (4, 3)


@QUANTIZERS.breaks("contract", "as if nothing was wrong")
class TakesAnyBits(Weights):
    def __init__(self, bits=None, spec=""):
        self.bits, self.spec = bits, spec


@QUANTIZERS.breaks("contract", "Clip")
class ActivationsAsWeights(Scheme):
    weights = Clip


@of_weights("weight-codes", "9")
class OneLevelTooMany(IntWeights):
    def largest(self):
        return 2 ** (self.bits - 1)


@of_weights("weight-codes", "also")
class CodesAreNotWhole(IntWeights):
    def encode(self, weight):
        codes, scale = super().encode(weight)
        return codes / 2, scale


@of_weights("weight-codes", "tensor")
class CodesDescend(IntWeights):
    def code_values(self):
        return super().code_values().flip(0)


@of_weights("weight-values", "filters that are zero")
class DividesByZero(IntWeights):
    def encode(self, weight):
        scale = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / self.largest()
        return (weight / scale).round(), scale


@of_weights("weight-values", "the value differs")
class ValueIsNotDecoded(IntWeights):
    def forward(self, weight):
        value, *rest = super().forward(weight)
        return value * 1.01, *rest


@of_activations("activation-levels", "some that are")
class RoundsToOtherLevels(Clip):
    def quantize(self, x):
        return super().quantize(x) * 0.9


@of_activations("activation-levels", "[")
class OneLevelMoreThanBits(Clip):
    def levels(self):
        return torch.arange(2**self.bits + 1) * self.scale


@of_activations("activation-levels", "smaller ones")
class WrapsAround(Clip):
    def quantize(self, x):
        return (x.clamp(min=0) / self.scale).round().remainder(2**self.bits) * self.scale


@of_weights("gradient", "slopes differ")
class TwiceTheGradient(IntWeights):
    def forward(self, weight):
        value, *rest = super().forward(weight)
        return value + weight - weight.detach(), *rest


@of_activations("gradient", "slopes differ")
class GradientOutsideTheClip(Clip):
    def quantize(self, x):
        return x + (super().quantize(x) - x).detach()


@of_activations("attacked", "zero for 100%")
class RoundsWithoutEstimator(Clip):
    def quantize(self, x):
        return super().quantize(x).detach() + 0 * x


@of_weights("frozen-twin", "a relative difference")
class ChangesAtEachPass(IntWeights):
    passes = 0

    def forward(self, weight):
        self.passes += 1
        value, *rest = super().forward(weight)
        return value * (1 + 0.1 * self.passes), *rest


@of_weights("trains", "do not")
class StopsTheGradient(IntWeights):
    def forward(self, weight):
        value, *rest = super().forward(weight)
        return value.detach() + 0 * weight, *rest


@of_activations("trains", "%")
class GradientTheOtherWay(Clip):
    def quantize(self, x):
        clipped = x.clamp(0.0, 4.0)
        return (4 - super().quantize(x)).detach() + clipped - clipped.detach()


@of_weights("save-and-load", "by up to")
class HiddenFactor(IntWeights):
    def __init__(self, bits, spec=""):
        super().__init__(bits, spec)
        self.factor = random.uniform(0.5, 2)

    def decode(self, codes, scale):
        return codes * scale * self.factor


@of_weights("packed", "decode depends on more than codes and scale")
class HiddenFactorPacked(HiddenFactor):
    pass


test_quantizer_caught = QUANTIZERS.test()
test_all_quantizer_checks_have_an_offender = QUANTIZERS.test_all_checks_have_one()
