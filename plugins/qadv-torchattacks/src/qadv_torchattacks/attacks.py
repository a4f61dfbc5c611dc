"""torchattacks' attacks as ART attacks: one class for each of theirs, made from its signature."""

import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar

import torch
import torchattacks
from pydantic import Field
from torch import Tensor, nn
from torchattacks.attack import Attack

import qadv
from qadv.attacks import PositiveLength
from qadv.errors import InvalidInputError, UnknownNameError, closest
from qadv.units import Share
from qadv_torchattacks.catalogue import classes, left_out, names, spelled
from qadv_torchattacks.module import as_torchattacks

Parameter = inspect.Parameter
LENGTHS = ("eps", "max_epsilon", "alpha")
FILLED = ("model", "n_classes", "seed", "verbose")
_DOCUMENTED = re.compile(r"^\s*(\w+)\s*\((\w+)\)\s*:", re.MULTILINE)
_TYPES = {"int": int, "float": float, "bool": bool, "str": str}


class TorchattacksAttack(qadv.SignatureAttack):
    """An attack of torchattacks; `theirs` is its class, and the options are those of its constructor.

    `eps`, `max_epsilon` and `alpha` are in the units of `clip_values`, their defaults shares of the range; other
    options mean what they mean in torchattacks, for pixels in [0, 1]. Its `n_classes` is the estimator's number of
    classes, its `verbose` is off, and its `seed` comes from `seed`, another one for each batch.

    Raises:
        InvalidInputError: torchattacks refuses an option, or the attack has no targeted mode.
    """

    theirs: ClassVar[type[Attack]]

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Returns what torchattacks' attack returns."""
        attack = self.attack(model)
        if self.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        found: Tensor = attack(x, y)
        return found

    def attack(self, model: nn.Module) -> Attack:
        """Returns torchattacks' attack on a module with these options, lengths for pixels in [0, 1]."""
        options = self.given(unit_range=True)
        filled = {"n_classes": self.estimator.nb_classes, "seed": torch.initial_seed() % 2**31, "verbose": False}
        takes = inspect.signature(self.theirs.__init__).parameters
        options |= {name: value for name, value in filled.items() if name in takes}
        try:
            return self.theirs(model, **options)
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise InvalidInputError(f"torchattacks' {self.theirs.__name__} refuses {self.given()}: {error}") from error

    def _check_params(self) -> None:
        super()._check_params()
        attack = self.attack(as_torchattacks(self.estimator))
        if self.targeted and "targeted" not in attack.supported_mode:
            raise InvalidInputError(f"targeted: torchattacks' {self.theirs.__name__} has no targeted mode")


def attack_names() -> dict[str, str]:
    """Returns qadv's names of the attacks that can be used, each with torchattacks'."""
    return {spelled(each): each for each in classes() if each not in left_out()}


def attack_class(name: str) -> type[TorchattacksAttack]:
    """Returns the ART attack class of an attack of torchattacks, always the same one.

    Args:
        name: qadv's name or torchattacks', e.g. `"torchattacks-pgd"`, `"PGD"`.

    Raises:
        UnknownNameError: there is none, or it can't be an ART attack; the message says why.
    """
    theirs = attack_names().get(name, name)
    if theirs in left_out():
        raise UnknownNameError(f"torchattacks' {theirs} can't be an ART attack: {left_out()[theirs]}")
    if theirs not in classes():
        raise UnknownNameError(f"no attack {name!r} in torchattacks{closest(name, [*names(), *classes()])}")
    return _made(getattr(torchattacks, theirs))


def create(name: str, *args: Any, **options: Any) -> TorchattacksAttack:
    """Returns `attack_class(name)(*args, **options)`."""
    return attack_class(name)(*args, **options)


@cache
def _made(theirs: type[Attack]) -> type[TorchattacksAttack]:
    about = inspect.getdoc(theirs) or ""
    return TorchattacksAttack.of(
        theirs.__name__,
        _options(theirs),
        theirs=theirs,
        __module__="qadv_torchattacks",
        __doc__=f"`torchattacks.{theirs.__name__}` as an ART attack; see `TorchattacksAttack`.\n\n"
        + about.partition("Shape:")[0].strip(),
    )


def _options(theirs: type[Attack]) -> Iterator[Parameter]:
    """Yields a constructor's options, each of the type that the docstring gives it, or else of its default's."""
    documented = dict(_DOCUMENTED.findall(inspect.getdoc(theirs) or ""))
    for option in inspect.signature(theirs.__init__).parameters.values():
        if option.name in ("self", *FILLED):
            continue
        kind = _TYPES.get(documented.get(option.name, ""), type(option.default))
        if not isinstance(option.default, kind) and not (kind is float and type(option.default) is int):
            kind = type(option.default)
        length = option.name in LENGTHS and isinstance(option.default, int | float)
        default = Share(option.default) if length else option.default
        yield option.replace(annotation=_annotation(option, kind), default=default)


def _annotation(option: Parameter, kind: type) -> Any:
    if option.name in LENGTHS:
        return PositiveLength
    return Annotated[int, Field(ge=min(option.default, 1))] if kind is int else kind
