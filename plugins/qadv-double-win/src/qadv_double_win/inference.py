"""What is deployed of a switchable classifier: one precision, or a precision drawn for each image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qadv import QuantizedClassifier, create, quantize
from qadv.backbones import recipe_of
from qadv.errors import InvalidInputError
from qadv.quantization import parse_scheme
from qadv.transformers import rebuilt
from qadv_double_win.precision import check_precisions, switchable_modules
from qadv_double_win.switchable import Switchable
from qadv_double_win.switchable_norm import SwitchableNorm

# where weights came from; they are in the network now
_SOURCES = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
_MOST_ORDINARY_BITS = 8  # of `int` and `relu6`


def at_precision(classifier: QuantizedClassifier, bits: int, model: nn.Module | None = None) -> QuantizedClassifier:
    """Returns an ordinary classifier with the logits that a switchable one has at `bits`.

    Weights are `int:q` and activations `relu6:q`, above 8 bits `switchable:q`; BatchNorms are those of the precision.
    Up to 8 bits it needs this plugin no more, saved, packed or exported. The weights are copied.

    Args:
        classifier: quantized with `switchable:k`.
        bits: 2 to k.
        model: a float network of the same structure with ordinary BatchNorms, where the classifier's was not made from
            a backbone's name; it gives structure only.

    Raises:
        InvalidInputError: the network does not have this precision, or is not known by name.
    """
    source: Any = classifier.model
    for module in switchable_modules(source):
        module.check_precision(bits)
    network = _backbone(source) if model is None else model
    how = source.qadv_quantization
    deployed = quantize(
        network,
        _at_bits(how["weights"], "weights", bits),
        _at_bits(how["activations"], "activations", bits),
        how["skip_first_last"],
    )
    deployed.load_state_dict(_state(source, deployed, bits))
    return rebuilt(classifier, deployed.eval())


def precision_classifiers(classifier: QuantizedClassifier, precisions: Sequence[int]) -> dict[str, QuantizedClassifier]:
    """Returns `at_precision` of each: `{"4 bit": …, "5 bit": …}`, as `qadv.transfer_matrix` takes them."""
    return {f"{bits} bit": at_precision(classifier, bits) for bits in check_precisions(precisions)}


def random_precision(classifier: QuantizedClassifier, precisions: Sequence[int]) -> QuantizedClassifier:
    """Returns random precision inference as a classifier that ART attacks: each image meets a precision of its own.

    The draws are anew at each pass, by torch's global generator. Whoever attacks it with gradients sees those of one
    random precision per step; for their mean attack `EnsembleClassifier.of(list(precision_classifiers(…).values()))`.

    Args:
        classifier: quantized with `switchable:k`.
        precisions: those that are drawn from, with equal chances.
    """
    members = [member.model for member in precision_classifiers(classifier, precisions).values()]
    return rebuilt(classifier, RandomMember(members).eval())


class RandomMember(nn.Module):
    """(N, …) → (N, classes): each image goes through one of several networks, drawn with equal chances.

    Args:
        members: networks for the same images and classes.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        drawn = torch.randint(len(self.members), (len(x),))
        rows = [torch.nonzero(drawn == index)[:, 0].to(x.device) for index in range(len(self.members))]
        outputs = [member(x[chosen]) for member, chosen in zip(self.members, rows, strict=True) if len(chosen)]
        return torch.cat(outputs)[torch.cat(rows).argsort()]


def _backbone(source: Any) -> nn.Module:
    """Returns a new float network with ordinary BatchNorms."""
    recipe = recipe_of(source)
    if recipe is None:
        raise InvalidInputError(
            "the network was not made from a backbone's name, or changed since; pass a float one: model=net"
        )
    options = {name: value for name, value in recipe["options"].items() if name not in _SOURCES}
    name, sizes = recipe["name"], {key: recipe[key] for key in ("nb_classes", "in_channels")}
    if name.rpartition("/")[2] == "switchable-norm":
        name = options.pop("backbone", "resnet20")
        options.pop("precisions", None)
        recipe = {**sizes, "name": name, "options": options}
    with torch.random.fork_rng(devices=[]):
        network: Any = create("backbone", name, **sizes, **options)
    network.qadv_backbone = recipe  # so that it is saved with the way it was made
    return network  # type: ignore[no-any-return]


def _at_bits(schemes: str | Mapping[str, str], role: Any, bits: int) -> str | dict[str, str]:
    """Returns schemes with the switchable ones fixed at a precision."""
    if not isinstance(schemes, str):
        return {pattern: str(_at_bits(spec, role, bits)) for pattern, spec in schemes.items()}
    if not isinstance(parse_scheme(schemes, role), Switchable):
        return schemes
    ordinary = "int" if role == "weights" else "relu6"
    return f"{ordinary if bits <= _MOST_ORDINARY_BITS else 'switchable'}:{bits}"


def _state(source: nn.Module, deployed: nn.Module, bits: int) -> dict[str, Tensor]:
    """Returns the state that the deployed network takes from the switchable one, by the deployed one's names."""
    state = dict(source.state_dict())
    for name, module in source.named_modules(remove_duplicate=False):
        if isinstance(module, SwitchableNorm):
            norm = module.norms[module.precisions.index(bits)]
            state |= {f"{name}.{key}": value for key, value in norm.state_dict().items()}
    own = deployed.state_dict()
    # above 8 bits it is switchable itself, and keeps the precision that it has
    state |= {name: value for name, value in own.items() if name.endswith("precision_buffer")}
    return {name: value for name, value in state.items() if name in own}
