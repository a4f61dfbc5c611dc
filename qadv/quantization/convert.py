"""`quantize`: a Brevitas-quantized copy of a float network."""

import copy
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from qadv.errors import InvalidInputError, SchemeError, UnsupportedModelError, closest
from qadv.quantization.calibration import Calibration, Images, calibrate
from qadv.quantization.functional_relu import modularize_relu
from qadv.quantization.layers import (
    QuantActivation,
    QuantConv2d,
    QuantLinear,
    activation_quantizers,
    quantized_layer,
    take_hooks,
)
from qadv.quantization.scheme import Role, Scheme, parse_scheme

Schemes = str | Mapping[str, str]

_OTHER_ACTIVATIONS = {
    "gelu", "gelutanh", "quickgelu", "silu", "swish", "mish", "elu", "celu", "selu", "leakyrelu", "prelu", "softplus",
    "hardswish", "hardswishme", "hardmish", "swishme", "mishme", "tanh", "rrelu", "softsign", "logsigmoid",
    "glu", "hardshrink", "softshrink", "squaredrelu",
}  # fmt: skip
# these read the weights of their parts without calling them: what is inside can't be swapped
_OPAQUE = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_WEIGHT_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase, *_OPAQUE)


def quantize(
    model: nn.Module,
    weights: Schemes = "int:4",
    activations: Schemes = "relu6:4",
    skip_first_last: bool = True,
    calibration: Calibration | Images | None = None,
) -> nn.Module:
    """Returns a Brevitas-quantized copy of a float network; the original is untouched.

    Every convolution and linear layer gets quantized weights, and every ReLU or ReLU6, module or function, becomes the
    clip and rounding of the activation scheme. In a network whose activations are not all ReLUs (GELU in a ViT, SiLU,
    Hardswish) the *inputs* of the quantized layers are quantized instead, clipped on both sides at the scheme's bound;
    a ReLU that such a network also has is replaced as well. Attention products, normalisation and biases stay float.

    Args:
        model: a float network; its weights are kept.
        weights: a scheme (`"int:4"`, `"bwn"`, `"float"`, …), or a mapping from layer-name patterns to schemes, where
            the last match counts: `{"*": "int:4", "layer4.*": "int:8"}`. Layers without a match stay float.
        activations: a scheme (`"relu6:4"`, …) or a mapping likewise.
        skip_first_last: leaves the weights of the first and the last weight layer, in order of registration, in full
            precision, unless a pattern other than `"*"` names them.
        calibration: images as the network takes them, (N, …) float32, or a `Calibration` that says more. From them come
            the ranges of activation schemes that have none of their own (`relu`, `pact`), new statistics of BatchNorm,
            and corrections of biases; see `Calibration`.

    Returns:
        The quantized copy, in the same training mode and on the same device. Its state dict has the keys of the float
        network's, and those of parameters that a scheme learns.

    Raises:
        SchemeError: unknown scheme or bits, or a scheme that needs `calibration`.
        InvalidInputError: `model` is no module, is quantized already, has weights that are not finite, or a pattern
            matches nothing.
        UnsupportedModelError: nothing to quantize, or a layer that would silently stay float.
    """
    given = None if calibration is None else Calibration.of(calibration)
    result = convert(model, weights, activations, skip_first_last)
    if given is not None:
        calibrate(result, model, given)
    missing = [name for name, quantizer in activation_quantizers(result) if not quantizer.has_range]
    if missing:
        names = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
        raise SchemeError(
            f"activations={activations!r}: the ranges of {names} come from data; give some: quantize(..., "
            "calibration=images). 'relu6:4' and 'relu1:4' have fixed ranges"
        )
    return result


def convert(
    model: nn.Module, weights: Schemes, activations: Schemes, skip_first_last: bool = True, fit: bool = True
) -> nn.Module:
    """Returns the quantized copy before calibration; arguments and errors as of `quantize`.

    With `fit=False` what quantizers find once, from the weights, has its shape only: a state dict is to follow.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    done = next((m for m in model.modules() if isinstance(m, QuantConv2d | QuantLinear | QuantActivation)), None)
    if done is not None or getattr(model, "qadv_quantization", None):
        raise InvalidInputError(f"model is quantized already ({done!r}); quantize the float network")
    bad = [name for name, p in model.named_parameters() if not p.is_meta and not bool(p.isfinite().all())]
    if bad:
        raise InvalidInputError(f"model has weights that are NaN or infinite: {', '.join(bad[:5])}")
    weight_schemes, activation_schemes = _Rules(weights, "weights"), _Rules(activations, "activations")

    try:
        result = copy.deepcopy(model)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} can't be copied ({type(error).__name__}: {error}); remove old-style weight_norm, "
            "pruning, or tensors kept from a forward pass"
        ) from error
    if activation_schemes.any:
        modularize_relu(result)
    result = _Conversion(result, weight_schemes, activation_schemes, skip_first_last, fit).run()
    _describe_shares(result)
    result.qadv_quantization = {  # type: ignore[assignment]  # plain data: what `save` needs to rebuild the network
        "weights": weights if isinstance(weights, str) else dict(weights),
        "activations": activations if isinstance(activations, str) else dict(activations),
        "skip_first_last": skip_first_last,
    }
    return result


def check_schemes(schemes: Schemes, role: Role) -> None:
    """Refuses what `quantize` would refuse for any network.

    Raises:
        SchemeError: neither a scheme nor a mapping to schemes, or an unknown one.
    """
    _Rules(schemes, role)


class _Rules:
    """Schemes by layer-name pattern, the last match counting."""

    def __init__(self, schemes: Schemes, role: Role) -> None:
        self.role = role
        if not isinstance(schemes, str | Mapping) or not schemes:
            raise SchemeError(f"{role}: expected a scheme or a mapping from layer names to schemes, got {schemes!r}")
        table = {"*": schemes} if isinstance(schemes, str) else {str(k): v for k, v in schemes.items()}
        self.rules = [(pattern, parse_scheme(spec, role)) for pattern, spec in table.items()]
        self.any = any(scheme is not None for _, scheme in self.rules)

    def find(self, name: str) -> tuple[str, Scheme | None]:
        """Returns the pattern that decides for a name, and its scheme; `("", None)` without a match."""
        matches = [(pattern, scheme) for pattern, scheme in self.rules if fnmatchcase(name, pattern)]
        return matches[-1] if matches else ("", None)

    def check_used(self, names: list[str]) -> None:
        for pattern, _ in self.rules:
            if pattern != "*" and not any(fnmatchcase(name, pattern) for name in names):
                raise InvalidInputError(
                    f"{self.role}: pattern {pattern!r} matches no layer{closest(pattern, names)} "
                    f"Layers: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
                )


class _Conversion:
    def __init__(
        self, model: nn.Module, weights: _Rules, activations: _Rules, skip_first_last: bool, fit: bool
    ) -> None:
        self.model = model
        self.fit = fit
        self.weights = weights
        self.activations = activations
        inside_opaque = {
            id(part)
            for module in model.modules()
            if isinstance(module, _OPAQUE)
            for part in module.modules()
            if part is not module
        }
        named = [(name, module) for name, module in model.named_modules() if id(module) not in inside_opaque]
        self.layers = [(name, module) for name, module in named if isinstance(module, _WEIGHT_LAYERS)]
        self.relus = [(name, module) for name, module in named if _is_relu(module)]
        others = [m for _, m in named if type(m).__name__.lower().replace("_", "") in _OTHER_ACTIVATIONS]
        self.quantizes_inputs = not self.relus or bool(others)
        self.kept = {self.layers[0][0], self.layers[-1][0]} if skip_first_last and self.layers else set()

    def run(self) -> nn.Module:
        self.weights.check_used([name for name, _ in self.layers])
        names = [name for name, _ in self.relus] + ([n for n, _ in self.layers] if self.quantizes_inputs else [])
        self.activations.check_used(names)
        replaced: dict[int, nn.Module] = {}
        left_over: list[str] = []
        for name, layer in self.layers:
            weight_scheme = self._weight_scheme(name)
            input_scheme = self._input_scheme(name)
            if weight_scheme is None and input_scheme is None:
                continue
            quantizer = weight_scheme.for_weights() if weight_scheme else None
            if quantizer is not None:
                quantizer.layer = name
            inputs = input_scheme.for_input() if input_scheme else None
            new = quantized_layer(layer, quantizer, inputs, self.fit)
            if new is None:
                left_over.append(f"{name} ({type(layer).__name__})")
            else:
                replaced[id(layer)] = new
        if left_over:
            example = left_over[0].partition(" ")[0]
            raise UnsupportedModelError(
                f"these layers would silently stay in full precision: {', '.join(left_over)}. Expected nn.Conv2d or "
                f"nn.Linear; to leave them float on purpose, say so: weights={{'*': 'int:4', {example!r}: 'float'}}"
            )
        for name, relu in self.relus:
            _, scheme = self.activations.find(name)
            if scheme is not None:
                new = QuantActivation(scheme.for_activation(), bool(getattr(relu, "inplace", False)))
                replaced[id(relu)] = new.train(relu.training)
        if not replaced and (self.weights.any or self.activations.any):
            raise UnsupportedModelError(
                f"nothing to quantize in {type(self.model).__name__}: it has {len(self.layers)} conv or linear layers "
                f"({len(self.kept)} kept float as first and last) and {len(self.relus)} ReLUs; "
                "skip_first_last=False quantizes the first and last layer too"
            )
        self._swap(replaced)
        return replaced.get(id(self.model), self.model)

    def _weight_scheme(self, name: str) -> Scheme | None:
        pattern, scheme = self.weights.find(name)
        return None if name in self.kept and pattern == "*" else scheme

    def _input_scheme(self, name: str) -> Scheme | None:
        if not self.quantizes_inputs:
            return None
        pattern, scheme = self.activations.find(name)
        return None if name in self.kept and pattern == "*" else scheme

    def _swap(self, replaced: dict[int, nn.Module]) -> None:
        """Puts the new modules in, also where one module is registered under several names."""
        device = next((p.device for p in self.model.parameters()), None)
        for parent in list(self.model.modules()):
            for child_name, child in list(parent._modules.items()):
                if child is not None and id(child) in replaced:
                    new = replaced[id(child)].to(device)
                    take_hooks(new, child)
                    parent._modules[child_name] = new


def _is_relu(module: nn.Module) -> bool:
    """A ReLU, or a Hardtanh that starts at 0 as ReLU6 does, with torch's own code."""
    if isinstance(module, nn.ReLU):
        return type(module).forward is nn.ReLU.forward
    return isinstance(module, nn.Hardtanh) and module.min_val == 0 and type(module).forward is nn.Hardtanh.forward


def _describe_shares(model: nn.Module) -> None:
    total = sum(p.numel() for p in model.parameters()) or 1
    for module in model.modules():
        if hasattr(module, "share"):
            own: Any = module
            own.share = sum(p.numel() for p in module.parameters(recurse=False)) / total
