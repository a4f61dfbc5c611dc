"""The kit's checks for front ends, on a toolkit of a few lines, and the offenders that they catch."""

from dataclasses import replace

import torch
from torch import nn

from qadv.frontends import NetworkFrontend, QuantizedActivation, QuantizedWeights
from qadv.quantization.form import Form, Given, Part
from qadv.quantization.quantizer import straight_through
from qadv.quantization.stand_ins import StandIn, stand_in
from qadv.testing import conformance
from tests.planted import Offenders

STEP = 0.02


class Rounded(nn.Linear):
    """The toolkit's layer: weights are multiples of a step, from -7 to 7 of them."""

    def codes(self):
        return (self.weight / STEP).round().clamp(-7, 7)

    def rounded(self):
        return straight_through(self.weight, STEP * self.codes())

    def forward(self, x):
        return nn.functional.linear(x, self.rounded(), self.bias)


class RoundedReLU(nn.Module):
    """The toolkit's activation: eight levels."""

    def forward(self, x):
        return straight_through(x.clamp(0, 7 * STEP), STEP * (x / STEP).round().clamp(0, 7))


def network():
    return nn.Sequential(nn.Flatten(), Rounded(64, 16), RoundedReLU(), Rounded(16, 10)).eval()


class Known(StandIn):
    __slots__ = ("_qadv_given",)

    def forward(self, x):
        (weight,) = self._qadv_given.values
        return nn.functional.linear(x, weight, self.bias)


class WeightOf:
    def __init__(self, layer):
        self.modules = [layer]

    def values(self):
        return (self.modules[0].rounded(),)


class Toolkit(NetworkFrontend):
    """Reads it."""

    name = "toolkit"

    def recognises(self, network):
        return any(isinstance(module, Rounded | RoundedReLU) for module in network.modules())

    def quantizers(self, network):
        modules = network.named_modules()
        return [found(n, m) for n, m in modules for kind, found in self.readers if isinstance(m, kind)]

    def parts(self, network, options, x):
        return [self.part(module) for module in network.modules() if type(module) is Rounded]

    def part(self, layer):
        given = Given()
        return Part({layer: stand_in(Known, layer, _qadv_given=given)}, WeightOf(layer), given)


def weights(name, layer):
    codes = layer.codes().detach()
    return QuantizedWeights(
        layer=name, role="weights", scheme="rounded", bits=4, scale=torch.tensor(STEP), origin="toolkit",
        value=STEP * codes, codes=codes, nb_codes=15, latent=layer.weight.detach(), parameter=layer.weight,
    )  # fmt: skip


def activation(name, layer):
    return QuantizedActivation(
        layer=name, role="output", scheme="rounded-relu", bits=3, scale=torch.tensor(STEP), origin="toolkit",
        levels=STEP * torch.arange(8), place=(layer, "forward"),
    )  # fmt: skip


Toolkit.readers = ((Rounded, weights), (RoundedReLU, activation))
FRONTENDS = Offenders("frontend", network=network)

test_sound_front_end = conformance("frontend", Toolkit, network=network)


@FRONTENDS.breaks("contract", "(True, True)")
class RecognisesAll(Toolkit):
    def recognises(self, network):
        return True


@FRONTENDS.breaks("quantizers", "13")
class SaysFewerBits(Toolkit):
    readers = ((Rounded, lambda name, layer: replace(weights(name, layer), bits=2)),)


@FRONTENDS.breaks("quantizers", "away")
class HasOtherLevels(Toolkit):
    readers = ((RoundedReLU, lambda name, layer: replace(activation(name, layer), levels=0.03 * torch.arange(8))),)


@FRONTENDS.breaks("quantizers", "'nowhere'")
class NamesNoLayer(Toolkit):
    readers = ((Rounded, lambda name, layer: replace(weights(name, layer), layer="nowhere")),)


@FRONTENDS.breaks("networks-untouched", "the network")
class TrainsIt(Toolkit):
    def quantizers(self, network):
        network.train()
        return super().quantizers(network)


@FRONTENDS.breaks("values", "logits")
class RoundsOther(Toolkit):
    def part(self, layer):
        part = super().part(layer)
        part.source.values = lambda: (layer.weight,)
        return part


@FRONTENDS.breaks("gradients", "another")
class DoublesTheGradient(Toolkit):
    def form(self, network, options):
        form = Form(network, options, self.parts)
        return lambda x: straight_through(2 * form(x), form(x).detach())


@FRONTENDS.breaks("follows", "logits")
class KeepsForGood(Toolkit):
    def part(self, layer):
        part, value = super().part(layer), layer.rounded().detach()
        part.source.modules, part.source.values = [], lambda: (value,)
        return part


@FRONTENDS.breaks("activations", "the same")
class NamesNoPlace(Toolkit):
    readers = ((RoundedReLU, lambda name, layer: replace(activation(name, layer), place=(layer, "nothing"))),)


test_front_end_caught = FRONTENDS.test()
test_all_front_end_checks_have_an_offender = FRONTENDS.test_all_checks_have_one()
