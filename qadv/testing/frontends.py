"""The checks for front ends."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qadv.frontends.frontend import NetworkFrontend, QuantizedActivation, QuantizedTensor, QuantizedWeights
from qadv.outputs import logits_of
from qadv.quantization.form import FormOptions
from qadv.quantization.stand_ins import NoFormError
from qadv.random_states import seeded
from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import NotApplicable, check, expect, expect_same
from qadv.testing.use import untouched

_NB_IMAGES = 4
_DO = "compute what the network does, and leave the rest to it"


class FrontendCase(ConformanceCase):
    """`network=` makes a network that the front end reads, of images of `input_shape`, 1×8×8 without it."""

    kind = "frontend"
    of_classifier = False

    def __init__(self, component: Any, options: Mapping[str, Any], *others: Any, **more: Any) -> None:
        super().__init__(component, options, *others, **more)
        self._network: Callable[[], nn.Module] = self.options.pop("network")

    def network(self) -> nn.Module:
        """Returns a new network of this origin, in evaluation mode; the same at each call."""
        with seeded(0):
            return self._network().eval()

    def images(self) -> Tensor:
        return torch.rand((_NB_IMAGES, *(self.input_shape or (1, 8, 8))), generator=torch.Generator().manual_seed(0))

    def inputs(self) -> Arrays:
        return {}

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return [(q.layer, q.role, q.scheme, q.bits) for q in self.make().quantizers(self.network())]


@check("frontend")
def contract(case: FrontendCase) -> None:
    """It is made without arguments, has a `name`, and says whether it recognises a network."""
    frontend = case.make()
    expect(isinstance(frontend, NetworkFrontend), "a NetworkFrontend", type(frontend).__name__, "subclass it")
    expect(isinstance(frontend.name, str) and frontend.name, "a text `name`", repr(frontend.name), "name = '...'")
    do = "ask for classes of your toolkit's modules: any(isinstance(m, Own) for m in network.modules())"
    found = frontend.recognises(case.network()), frontend.recognises(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    expect(found == (True, False), "True for its own network and False for a float one", found, do)


@check("frontend")
def quantizers(case: FrontendCase) -> None:
    """What it says of each quantizer holds in the network: layers by name, shapes, bits, codes, levels."""
    network, frontend = case.network(), case.make()
    if frontend.suffixes:
        raise NotApplicable("what is quantized in a file is no module of torch")
    names = dict(network.named_modules())
    found = frontend.quantizers(network)
    do = "return one QuantizedWeights or QuantizedActivation for each quantizer"
    expect(bool(found), "at least one quantizer in its own network", "none", do)
    for each in found:
        known = isinstance(each, QuantizedTensor) and each.layer in names
        expect(known, "the name of a module of the network", repr(getattr(each, "layer", each)), do)
        expect(type(each.bits) is int and 1 <= each.bits <= 32, f"{each.layer}: bits from 1 to 32", each.bits, do)
        if isinstance(each, QuantizedWeights):
            _check_weights(each, names[each.layer], do)
        elif isinstance(each, QuantizedActivation) and len(each.levels):
            _check_levels(each, do)


def _check_weights(weights: QuantizedWeights, layer: nn.Module, do: str) -> None:
    values = weights.value.detach()
    expect(bool(values.isfinite().all()), f"{weights.layer}: finite weights", "NaN or infinite", do)
    shape = getattr(getattr(layer, "weight", None), "shape", values.shape)
    expect(values.shape == shape, f"{weights.layer}: weights of shape {tuple(shape)}", tuple(values.shape), do)
    most = max((len(torch.unique(row)) for row in values.flatten(1)), default=0)
    expect(most <= 2**weights.bits, f"{weights.layer}: at most 2^{weights.bits} values in a filter", most, do)
    if weights.codes is not None:
        used = len(torch.unique(weights.codes))
        expect(used <= weights.nb_codes, f"{weights.layer}: codes among {weights.nb_codes}", used, do)


def _check_levels(activation: QuantizedActivation, do: str) -> None:
    levels = activation.levels.detach().double()
    came = f"{len(levels)} levels, {levels[:3].tolist()} …"
    expect(bool((levels.diff() > 0).all()), f"{activation.layer}: levels that ascend", came, do)
    expect(len(levels) <= 2**activation.bits, f"{activation.layer}: at most 2^{activation.bits} levels", came, do)
    x = torch.linspace(float(levels[0]) - 1, float(levels[-1]) + 1, 1001)
    with torch.no_grad():
        output = activation.function()(x).double()
    distance = float((output[:, None] - levels).abs().amin(dim=1).max())
    close = distance <= 1e-4 * float(levels.diff().max() if len(levels) > 1 else levels.abs().max())
    expect(close, f"{activation.layer}: outputs among its levels", f"one is {distance:g} away", do)


@check("frontend")
def networks_untouched(case: FrontendCase) -> None:
    """Reading a network leaves its weights, buffers, modes and hooks as they are."""
    network, frontend = case.network(), case.make()
    with untouched(network, do="work on copies, and set nothing on the network's modules", modes=True):
        frontend.recognises(network)
        frontend.objection(network)
        frontend.quantizers(network)
        _ask(frontend.form(network, FormOptions()), case.images())


@check("frontend")
def values(case: FrontendCase) -> None:
    """The form gives the network's logits to the bit."""
    network, x = case.network(), case.images()
    with torch.no_grad():
        expected = logits_of(network(x))
        found = _ask(case.make().form(network, FormOptions()), x)
    expect_same(expected, found, "the network's own logits to the bit", _DO, "logits")


@check("frontend")
def gradients(case: FrontendCase) -> None:
    """Where the network has gradients of its own at the images, the form has the same within 1e-5 of the largest."""
    network, x = case.network(), case.images()
    own = _gradient(network, x)
    if own is None:
        raise NotApplicable("the network has no gradient of its own")
    found = _gradient(partial(_ask, case.make().form(network, FormOptions())), x)
    error = float("inf") if found is None else float((found - own).abs().max() / own.abs().max())
    expect(error <= 1e-5, "the network's own gradient", f"another, by {error:.1e} of the largest", _DO)


@check("frontend")
def follows(case: FrontendCase) -> None:
    """The form follows a network whose parameters change."""
    network, x = case.network(), case.images()
    form = case.make().form(network, FormOptions())
    _ask(form, x)
    with torch.no_grad():
        floats = [p for p in network.parameters() if p.is_floating_point() and type(p) is nn.Parameter]
        if not floats:
            raise NotApplicable("the network has no parameters that could be trained")
        floats[0].mul_(-1)
        expected = logits_of(network(x))
    do = "compute what is kept from a Source, whose `modules` have all parameters and buffers that it depends on"
    expect_same(expected, _ask(form, x), "the changed network's logits", do, "logits")


@check("frontend")
def activations(case: FrontendCase) -> None:
    """A function in the place of an activation's own is what the network computes with."""
    network, x = case.network(), case.images()
    activations = [each for each in case.make().quantizers(network) if isinstance(each, QuantizedActivation)]
    found = [each for each in activations if each.at is not None]
    if not found:
        raise NotApplicable("the network has no quantized activations, or all are within its kernels")
    with torch.no_grad():
        before = logits_of(network(x))
        with found[0].replaced_by(torch.zeros_like):
            changed = logits_of(network(x))
        after = logits_of(network(x))
    do = "`place` is an object and the name of the method that quantizes, `adapted` makes what is called there"
    expect(not torch.equal(before, changed), "other logits with zeros in its place", "the same", do)
    expect_same(before, after, "the logits from before", do, "logits")


def _ask(form: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    try:
        return logits_of(form(x))
    except NoFormError as error:
        raise NotApplicable("the network computes itself") from error


def _gradient(function: Callable[[Tensor], Any], x: Tensor) -> Tensor | None:
    leaf = x.clone().requires_grad_()
    logits = logits_of(function(leaf))
    if not logits.requires_grad:
        return None
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)
    return found
