"""`summarize`: what is quantized in a network, layer by layer, and how small it gets."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn

from qadv.errors import InvalidInputError
from qadv.frontends.find import quantizers
from qadv.frontends.frontend import QuantizedTensor, QuantizedWeights
from qadv.modes import held_network, weight_layers
from qadv.quantization.attention import has_products
from qadv.quantization.flow import Flow, input_flows
from qadv.quantization.packing import packed_size
from qadv.quantization.plan import Plan
from qadv.tables import as_text

_COLUMNS = "layer", "kind", "scheme", "bits", "input", "levels used", "scale", "share", "packed", "float32"


@dataclass(frozen=True)
class LayerSummary:
    """One layer that has parameters of its own or quantizes.

    Attributes:
        name: the layer's name in the network.
        kind: its class, e.g. `QuantConv2d`; one without parameters of its own may stand for its products of
            activations, softmax and gates.
        scheme: how weights (or, for an activation, the output) are quantized; `"float"` for not at all.
        bits: bits of one weight or activation; 32 for float.
        levels: integer codes that the layer's weights use, and codes that the scheme has; `None` for float weights.
        input_scheme: for a convolution or linear layer: the scheme of the one quantizer that its input comes from, its
            own or that of an activation before it, or `"float"`; `""` for other layers, and where nothing is known.
        scale: smallest and largest scale of the layer's filters, or `None`.
        parameters: number of parameters.
        share: part of the network's parameters, 0 to 1.
        packed_bytes: size of the weights' integer codes as a string of bits, with scales and all else as float32.
        float_bytes: size as float32.
    """

    name: str
    kind: str
    scheme: str
    bits: int
    levels: tuple[int, int] | None
    input_scheme: str
    scale: tuple[float, float] | None
    parameters: int
    share: float
    packed_bytes: int
    float_bytes: int


@dataclass(frozen=True)
class Summary:
    """The layers of a network in order of registration; prints as a table."""

    layers: tuple[LayerSummary, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        return sum(layer.float_bytes for layer in self.layers)

    @property
    def compression(self) -> float:
        """`float_bytes / packed_bytes`; 1 for a network without parameters."""
        return self.float_bytes / self.packed_bytes if self.packed_bytes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        totals = {"parameters": self.parameters, "packed_bytes": self.packed_bytes, "float_bytes": self.float_bytes}
        return {"layers": [asdict(layer) for layer in self.layers], **totals}

    def table(self) -> Table:
        """Returns a rich table, one row per layer and one of totals."""
        packed, full = f"{self.packed_bytes:,} B", f"{self.float_bytes:,} B ({self.compression:.1f}x)"
        footers = {"layer": "total", "share": "100 %", "packed": packed, "float32": full}
        table = Table(show_footer=True)
        for column in _COLUMNS:
            to_the_left = column in ("layer", "kind", "scheme", "input")
            table.add_column(column, footers.get(column, ""), justify="left" if to_the_left else "right")
        for layer in self.layers:
            texts = layer.name, layer.kind, layer.scheme, str(layer.bits), layer.input_scheme
            levels = "{} of {}".format(*layer.levels) if layer.levels is not None else ""
            scale = "…".join(dict.fromkeys(f"{end:.3g}" for end in layer.scale or ()))
            sizes = f"{layer.share:.1%}", f"{layer.packed_bytes:,} B", f"{layer.float_bytes:,} B"
            table.add_row(*texts, levels, scale, *(sizes if layer.parameters else ()))
        return table

    def __str__(self) -> str:
        return as_text(self.table(), width=140)


def summarize(model: Any) -> Summary:
    """Summarizes each layer: kind, scheme, bits, input, scale, share of parameters, and size packed and as float32.

    `model` is a `torch.nn.Module`, or a classifier that holds one.
    """
    module = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if not isinstance(module, nn.Module):
        raise InvalidInputError(f"expected a network, or a classifier that holds one, got {type(model).__name__}")
    module = held_network(module)
    found: dict[str, list[QuantizedTensor]] = {}
    for quantizer in quantizers(module):
        found.setdefault(quantizer.layer, []).append(quantizer)
    total = sum(p.numel() for p in module.parameters()) + sum(map(_packed, found.values())) or 1
    inputs = _input_schemes(module, found)
    whole = {name for name, quantizers in found.items() if any(q.role != "products" for q in quantizers)}
    parts = {part for name in whole for part in module.get_submodule(name).modules()} - set(
        map(module.get_submodule, found)
    )
    rows: list[LayerSummary] = []
    counted: set[nn.Parameter] = set()  # a parameter tied to two layers is counted with the first
    for name, layer in module.named_modules():
        if layer in parts:
            continue  # of the quantized layer that it stands in
        own = set(layer.parameters(recurse=name in whole)) - counted
        shown = (
            has_products(layer) or _packed(found.get(name, [])) or any(q.role == "output" for q in found.get(name, ()))
        )
        if own or shown:
            counted |= own
            rows.append(_row(name or "(root)", layer, own, total, inputs.get(name, ""), found.get(name, [])))
    return Summary(tuple(rows))


def _input_schemes(model: nn.Module, found: dict[str, list[QuantizedTensor]]) -> dict[str, str]:
    """Returns the scheme of layers' inputs: their own, or that of the activation that they come from, if one is known.

    `quantize` has planned it; other networks are traced.
    """
    ends = {q.layer: q for quantizers in found.values() for q in quantizers if q.role == "output"}
    own = {q.layer: q.scheme for quantizers in found.values() for q in quantizers if q.role == "input"}
    layers, recipe = weight_layers(model), getattr(model, "qadv_quantization", None)
    if recipe is not None:
        plan = Plan.from_dict(recipe["plan"])
        return {n: ends[plan.inputs[n]].scheme if plan.inputs.get(n) in ends else "float" for n in layers} | own
    if not layers or not found:
        return own

    def same_levels(a: str, b: str) -> bool:
        one, other = (getattr(ends[name], "levels", None) for name in (a, b))
        return one is not None and other is not None and torch.equal(one, other)

    activations, images = {name: Flow(name) for name in ends.keys() - layers.keys()}, Flow(as_wished=True)
    flows = input_flows(model, layers, activations, same_levels, images).items()
    known = {n: ends[flow.grid].scheme if flow.grid else "float" for n, flow in flows if flow.grid or flow.as_wished}
    return known | own


def _packed(found: list[QuantizedTensor]) -> int:
    """Returns how many numbers a layer has that are no parameters, since they are packed."""
    weights = [each for each in found if isinstance(each, QuantizedWeights) and each.parameter is None]
    return sum(each.value.numel() + each.beside for each in weights)


@torch.no_grad()
def _row(
    name: str, layer: nn.Module, own: set[nn.Parameter], total: int, input_scheme: str, found: list[QuantizedTensor]
) -> LayerSummary:
    parameters = sum(p.numel() for p in own) + _packed(found)
    by_role = {quantizer.role: quantizer for quantizer in reversed(found)}
    floats = isinstance(getattr(layer, "weight", None), nn.Parameter)  # whatever becomes of what they give
    shown = by_role.get("weights") or (None if floats else by_role.get("output")) or by_role.get("products")
    levels = None
    packed = full = 4 * parameters
    if isinstance(shown, QuantizedWeights):
        if shown.codes is not None:
            levels = len(torch.unique(shown.codes)), shown.nb_codes
        if shown.parameter is None or shown.parameter in own:
            scales = 0 if shown.scale is None else shown.scale.numel()
            packed += packed_size(shown.value.numel(), shown.bits) + 4 * scales - 4 * shown.value.numel()
    scheme, bits = ("float", 32) if shown is None else (shown.scheme, shown.bits)
    scale = None if shown is None or shown.scale is None else (shown.scale.min().item(), shown.scale.max().item())
    kind, share = layer._get_name(), parameters / total  # type: ignore[no-untyped-call]
    return LayerSummary(name, kind, scheme, bits, levels, input_scheme, scale, parameters, share, packed, full)
