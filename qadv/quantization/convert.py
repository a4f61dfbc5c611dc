"""`quantize`: a Brevitas-quantized copy of a float network."""

import copy
import warnings
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from qadv.backbones.float_weights import check_finite
from qadv.backbones.outlines import note_recipe
from qadv.backbones.recipes import recipe_of
from qadv.checks import check_flag
from qadv.errors import InvalidInputError, SchemeError, UnsupportedModelError, some
from qadv.modes import held_network
from qadv.quantization.attention import CLOSED, QuantizedProducts, quantize_products
from qadv.quantization.calibration import Calibration, CalibrationImages, calibrate
from qadv.quantization.clipped_relu import ClippedUniform
from qadv.quantization.flow import Flow, input_flows
from qadv.quantization.functional_relu import modularize_relus
from qadv.quantization.layers import (
    QuantActivation,
    QuantConv2d,
    QuantLinear,
    activation_quantizers,
    computes_as,
    quantized_layer,
    swapped,
)
from qadv.quantization.plan import FORMAT_1, SIGNED, UNSIGNED, Plan
from qadv.quantization.quantizer import ActivationQuantizer
from qadv.quantization.rules import Rules, Schemes

_OTHER_ACTIVATIONS = {
    "gelu", "gelutanh", "quickgelu", "silu", "swish", "mish", "elu", "celu", "selu", "leakyrelu", "prelu", "softplus",
    "hardswish", "hardswishme", "hardmish", "swishme", "mishme", "tanh", "rrelu", "softsign", "logsigmoid",
    "glu", "hardshrink", "softshrink", "squaredrelu",
}  # fmt: skip
_WEIGHT_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase, *CLOSED)


def quantize(
    model: nn.Module,
    weights: Schemes = "int:4",
    activations: Schemes = "relu6:4",
    skip_first_last: bool = True,
    calibration: Calibration | CalibrationImages | None = None,
    attention: Schemes = "float",
) -> nn.Module:
    """Returns a Brevitas-quantized copy of a float network; the original is untouched.

    Every convolution and linear layer gets quantized weights, and every ReLU or ReLU6, module or function, becomes the
    clip and rounding of the activation scheme, within its own bound: a ReLU6 never gets a range beyond 6. The input of
    every quantized layer comes from one quantizer. Where it is not what an activation gave (a sum, a gate, a pooled
    mean, a linear bottleneck, a GELU, a concatenation of activations with different levels), the layer gets a quantizer
    of its own: signed, clipped at the scheme's bound on both sides, unless nothing negative can come; with
    `calibration`, its range comes from data. Normalisation and biases stay float, and so do the images that the first
    layers read; attention products and gates do without `attention`.

    Args:
        model: a float network; its weights are kept.
        weights: a scheme (`"int:4"`, `"bwn"`, `"float"`, …), or a mapping from layer-name patterns to schemes, where
            the last match counts: `{"*": "int:4", "layer4.*": "int:8"}`. Layers without a match stay float.
        activations: a scheme (`"relu6:4"`, …) or a mapping likewise.
        skip_first_last: leaves the weights of the first and the last weight layer, in order of registration, and of all
            others that read the images themselves, in full precision, and their inputs too, unless a pattern other than
            `"*"` names them.
        calibration: images as the network takes them, (N, …) float32, or a `Calibration` that says more. From them come
            the ranges of activation schemes that have none of their own (`relu`, `pact`) and of inputs that come from
            no ReLU, new statistics of BatchNorm, and corrections of biases; see `Calibration`.
        attention: a scheme for products of two activations (`"int:8"`), or a mapping from patterns of the names of
            modules that have such: queries, keys, values and other operands, and what a softmax or a sigmoid gives, are
            rounded with a scale for each image.

    Returns:
        The quantized copy, in the same training mode and on the same device. Its state dict has the keys of the float
        network's, and those of parameters that a scheme learns.

    Raises:
        SchemeError: unknown scheme or bits, a scheme that needs `calibration`, or one with levels above the bound of
            the activation that it would replace.
        InvalidInputError: `model` is no module, is quantized already, has weights that are not finite or of 16 bits,
            or a pattern matches nothing.
        UnsupportedModelError: nothing to quantize, or a layer, its input, or attention that would silently stay float.
    """
    given = None if calibration is None else Calibration.of(calibration)
    skip_first_last = check_flag("skip_first_last", skip_first_last)
    result = convert(model, weights, activations, skip_first_last, from_data=given is not None, attention=attention)
    if given is not None:
        calibrate(result, model, given)
    quantizers = activation_quantizers(result)
    if missing := [name for name, quantizer in quantizers if not quantizer.has_range]:
        raise SchemeError(
            f"activations={activations!r}: the ranges of {some(missing)} come from data; give some: quantize(..., "
            "calibration=images). 'relu6:4' and 'relu1:4' have fixed ranges"
        )
    fixed = {name: q for name, q in quantizers if isinstance(q, ClippedUniform) and q.signed and not q.takes_range}
    if fixed:  # a range that is that of a ReLU clips what is no ReLU's output
        bound = next(iter(fixed.values())).bound
        warnings.warn(
            f"activations={activations!r}: the inputs of {len(fixed)} layers ({some(fixed)}) come from no ReLU but "
            f"from sums, linear outputs or other activations, and are clipped at ±{bound:g}; for a trained network "
            "give calibration=images, which chooses their ranges",
            stacklevel=2,
        )
    return result


def convert(
    model: nn.Module,
    weights: Schemes,
    activations: Schemes,
    skip_first_last: bool = True,
    fit: bool = True,
    from_data: bool = False,
    plan: Plan | None = None,
    attention: Schemes = "float",
) -> nn.Module:
    """Returns the quantized copy before calibration; arguments and errors as of `quantize`.

    With `fit=False` what quantizers find once, from the weights, has its shape only: a state dict is to follow. With
    `from_data` calibration follows. A `plan` is what an earlier conversion of the same network decided.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    model = held_network(model)
    kinds = QuantConv2d | QuantLinear | QuantActivation | QuantizedProducts
    done = next((module for module in model.modules() if isinstance(module, kinds)), None)
    if done is not None or getattr(model, "qadv_quantization", None):
        raise InvalidInputError(
            f"model is quantized already ({repr(done).splitlines()[0]}); quantize the float network"
        )
    check_finite(model)
    if half := {str(each.dtype) for each in model.parameters() if each.is_floating_point() and each.itemsize < 4}:
        names = ", ".join(sorted(half)).replace("torch.", "")
        raise InvalidInputError(f"model: expected float32 parameters, got {names}; write model.float()")
    weight_schemes, activation_schemes = Rules(weights, "weights"), Rules(activations, "activations")
    attention_schemes = Rules(attention, "attention")
    try:
        result = copy.deepcopy(model)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} can't be copied ({type(error).__name__}: {error}); remove pruning, "
            "old-style weight_norm, or tensors that it keeps from a forward pass"
        ) from error
    for module in result.modules():
        if getattr(module, "qkv_bias_separate", None) is False:
            module.qkv_bias_separate = True  # type: ignore[assignment]  # timm's beit and eva02 call linear as a module then
    if activation_schemes.any:
        modularize_relus(result, clips=plan is None or plan.bounds)
    conversion = _Conversion(result, weight_schemes, activation_schemes, skip_first_last, fit)
    result = conversion.run(plan, from_data)
    quantize_products(result, attention_schemes)
    total = sum(p.numel() for p in result.parameters()) or 1
    for module in result.modules():
        if hasattr(module, "share"):
            module.share = sum(p.numel() for p in module.parameters(recurse=False)) / total  # type: ignore[assignment]
    if (recipe := recipe_of(model)) is not None:  # of timm's own networks, too, which have none yet
        note_recipe(result, recipe)
    else:
        result.__dict__.pop("qadv_backbone", None)
    given = {"weights": weights, "activations": activations}
    given |= {"attention": attention} if attention_schemes.any else {}
    result.qadv_quantization = {  # type: ignore[assignment]  # plain data: what `save` needs to rebuild the network
        **{role: schemes if isinstance(schemes, str) else dict(schemes) for role, schemes in given.items()},
        "skip_first_last": skip_first_last,
        "plan": conversion.plan.to_dict(),
    }
    return result


def rebuild(model: nn.Module, recipe: Mapping[str, Any]) -> nn.Module:
    """Returns the quantized network that a saved recipe (`qadv_quantization`) describes, to load its weights into.

    A recipe without a plan is of a file of format 1: it is followed by the rules of then, so that the network computes
    what it did.
    """
    schemes = {key: recipe[key] for key in ("weights", "activations", "skip_first_last")}
    schemes |= {"attention": recipe.get("attention", "float")}
    plan = Plan.from_dict(recipe["plan"]) if "plan" in recipe else FORMAT_1
    return convert(model, **schemes, fit=False, plan=plan)


class _Conversion:
    plan: Plan

    def __init__(self, model: nn.Module, weights: Rules, activations: Rules, skip_first_last: bool, fit: bool) -> None:
        self.model = model
        self.fit = fit
        self.weights = weights
        self.activations = activations
        self.skip_first_last = skip_first_last
        opaque = [module for module in model.modules() if isinstance(module, CLOSED)]
        inside = {part for module in opaque for part in module.modules() if part is not module}
        named = [(name, module) for name, module in model.named_modules() if module not in inside]
        self.layers = {name: module for name, module in named if isinstance(module, _WEIGHT_LAYERS)}
        self.relus = {name: (module, bound) for name, module in named if (bound := _relu_bound(module)) is not None}

    def run(self, plan: Plan | None, from_data: bool) -> nn.Module:
        self.weights.check_used(self.layers)
        self.activations.check_used([*self.relus, *self.layers])
        capped = plan is None or plan.bounds
        made = {name: self._activation(name, bound if capped else inf) for name, (_, bound) in self.relus.items()}
        quantizers = {name: quantizer for name, quantizer in made.items() if quantizer is not None}
        if plan is None:
            self.plan = self._plan(quantizers, from_data)
        else:
            self.plan = self._plan_of_format_1() if plan is FORMAT_1 else plan
        replaced: dict[nn.Module, nn.Module] = {}
        left_over: dict[str, str] = {}
        for name, layer in self.layers.items():
            pattern, scheme = self.weights.find(name)
            kept = scheme is None or (name in self.plan.kept and pattern == "*")
            weights = None if scheme is None or kept else scheme.for_weights()
            inputs = self._input(name)
            if weights is None and inputs is None:
                continue
            if weights is not None:
                weights.layer = name
            plain = isinstance(layer, nn.Conv2d | nn.Linear) and not is_parametrized(layer)
            if plain and not {"weight", "bias"} <= layer._parameters.keys():
                raise UnsupportedModelError(
                    f"{name}: its weight and bias are no parameters, but computed in each pass, as by pruning and "
                    "weight_norm, or kept in another way. Make them permanent (torch.nn.utils.prune.remove, "
                    f"remove_weight_norm), or leave the layer float: weights={{'*': 'int:4', {name!r}: 'float'}}"
                )
            new = quantized_layer(layer, weights, inputs, self.fit)
            if new is None:
                left_over[name] = f"{name} ({type(layer).__name__})"
            else:
                replaced[layer] = new
        if left_over:
            example = f"weights={{'*': 'int:4', {next(iter(left_over))!r}: 'float'}}"
            if toolkit := _toolkit(map(self.layers.__getitem__, left_over)):
                raise UnsupportedModelError(
                    f"these layers are quantized already, by {toolkit}: {some(left_over.values())}. Attack the network "
                    f"as it is, QuantizedClassifier(model, ...); to quantize others, leave these alone: {example}"
                )
            raise UnsupportedModelError(
                f"these layers would silently stay in full precision: {', '.join(left_over.values())}. Expected "
                f"nn.Conv2d or nn.Linear; to leave them float on purpose, say so: {example}"
            )
        for name, activation in quantizers.items():
            if name not in self.plan.kept or self.activations.find(name)[0] != "*":
                relu = self.relus[name][0]
                new = QuantActivation(activation, bool(getattr(relu, "inplace", False)))
                replaced[relu] = new.train(relu.training)
        if not replaced and (self.weights.any or self.activations.any):
            raise UnsupportedModelError(
                f"nothing to quantize in {type(self.model).__name__}: it has {len(self.layers)} conv or linear layers "
                f"({len(self.plan.kept)} kept float as first and last) and {len(self.relus)} ReLUs; "
                "skip_first_last=False quantizes the first and last layer too"
            )
        device = next((p.device for p in self.model.parameters()), None)
        return swapped(self.model, {old: new.to(device) for old, new in replaced.items()})

    def _activation(self, name: str, bound: float) -> ActivationQuantizer | None:
        _, scheme = self.activations.find(name)
        if scheme is None:
            return None
        quantizer = scheme.for_activation()
        try:
            quantizer.cap(bound)
        except SchemeError as error:
            raise SchemeError(f"{name}: {error}; leave it float, or choose another scheme for it") from error
        return quantizer

    def _plan(self, quantizers: Mapping[str, ActivationQuantizer], from_data: bool) -> Plan:
        """Decides for each layer by the source of its input."""
        known = {name: Flow(non_negative=True, as_wished=True) for name in self.relus}
        known |= {name: Flow(name, non_negative=not quantizer.signed) for name, quantizer in quantizers.items()}

        def same_grid(a: str, b: str) -> bool:
            one, other = quantizers[a], quantizers[b]
            return not one.takes_range and not other.takes_range and one.grid() == other.grid() is not None

        flows = input_flows(self.model, self.layers, known if self.activations.any else {}, same_grid)
        images = {name for name, flow in flows.items() if flow.image}
        ends = self._ends()
        inputs: dict[str, str] = {}
        for name in self.layers:
            flow = flows[name]
            pattern, scheme = self.activations.find(name)
            if flow.grid:  # whatever the layer itself would take
                inputs[name] = flow.grid
                continue
            if scheme is None:
                continue
            weight_pattern, weight_scheme = self.weights.find(name)
            on_purpose = weight_pattern != "*" and weight_scheme is None
            spared = name in images or on_purpose or (self.skip_first_last and name in ends)
            if pattern != "*" or not (spared or flow.as_wished):
                unsigned = flow.non_negative and scheme.activations is not None and not scheme.activations.signed
                inputs[name] = UNSIGNED if unsigned else SIGNED
            elif flow.called and name not in images:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__} calls {flow.called} as a function before {name!r}, whose input would "
                    "silently stay float; use modules (nn.ReLU, nn.Hardtanh, …), or say what the input is to be: "
                    f"activations={{'*': {scheme.spec!r}, {name!r}: {scheme.spec!r}}} or 'float'"
                )
        kept = [name for name in self.layers if name in ends or name in images] if self.skip_first_last else []
        return Plan((*kept, *(name for name in self.relus if name in images)), inputs, from_data=from_data)

    def _plan_of_format_1(self) -> Plan:
        """The plan of old files: all ReLUs are quantized, or all inputs where there is another activation."""
        kept = self._ends() if self.skip_first_last else []
        names = {type(module).__name__.lower().replace("_", "") for module in self.model.modules()}
        inputs = {}
        if not self.relus or names & _OTHER_ACTIVATIONS:
            found = {name: self.activations.find(name) for name in self.layers}
            inputs = {
                n: SIGNED for n, (pattern, scheme) in found.items() if scheme and (n not in kept or pattern != "*")
            }
        return Plan(tuple(kept), inputs, bounds=False)

    def _ends(self) -> list[str]:
        names = list(self.layers)
        return [names[0], names[-1]] if names else []

    def _input(self, name: str) -> ActivationQuantizer | None:
        own, (_, scheme) = self.plan.inputs.get(name), self.activations.find(name)
        if own not in (SIGNED, UNSIGNED) or scheme is None:
            return None
        if self.plan.from_data and scheme.from_data is not None:
            scheme = scheme.from_data(scheme.bits)
        return scheme.for_activation() if own == UNSIGNED else scheme.for_input()


def _relu_bound(module: nn.Module) -> float | None:
    """The upper bound of a ReLU, a ReLU6, a Hardtanh or Threshold from 0 on, with torch's own code; else `None`."""
    kind = next((kind for kind in (nn.ReLU, nn.Threshold, nn.Hardtanh) if isinstance(module, kind)), None)
    if kind is None or not computes_as(module, kind):
        return None
    if isinstance(module, nn.Hardtanh):
        return float(module.max_val) if module.min_val == 0 else None
    return None if isinstance(module, nn.Threshold) and (module.threshold, module.value) != (0, 0) else inf


def _toolkit(layers: Iterable[nn.Module]) -> str:
    """Returns the toolkit that quantized a layer, `""` for none."""
    packages = {type(layer).__module__ for layer in layers}
    toolkits = ("brevitas", "torchao", "torch.ao")
    return next((each for each in toolkits if any(package.startswith(f"{each}.") for package in packages)), "")
