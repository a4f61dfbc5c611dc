"""Foolbox's attacks as ART attacks: one class for each of theirs, made from its signature."""

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_type_hints

import foolbox
import numpy as np
from foolbox.attacks.base import Attack, FixedEpsilonAttack, MinimizationAttack
from foolbox.criteria import Misclassification, TargetedMisclassification
from foolbox.distances import Distance
from pydantic import Field
from torch import Tensor, nn

import qadv
from qadv.attacks import PositiveLength
from qadv.errors import InvalidInputError, MissingRequirementError, UnknownNameError, closest
from qadv.units import Share
from qadv_foolbox.catalogue import classes, left_out, names, spelled

Parameter = inspect.Parameter
LENGTHS = ("eps", "abs_stepsize", "init_epsilon")
DISTANCES = {"l0": 0, "l1": 1, "l2": 2, "linf": np.inf}


class FoolboxAttack(qadv.SignatureAttack):
    """An attack of Foolbox; `theirs` is its class, and the options are those of its constructor.

    Attacks with a fixed ε have the option `eps` besides, those that look for the nearest image `eps=None`: with a
    number, what is farther away is moved back to that distance, as Foolbox does for its `epsilons`. `eps`,
    `abs_stepsize` and `init_epsilon` are in the units of `clip_values`, their defaults shares of the range; other
    options mean what they mean in Foolbox, for pixels in [0, 1]. `distance` is a Foolbox distance or its name: "l0",
    "l1", "l2" or "linf".

    Raises:
        MissingRequirementError: Foolbox's attack imports a package that is not installed.
    """

    theirs: ClassVar[type[Attack]]

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Returns what Foolbox's attack returns as clipped: within `eps`, where there is one."""
        attack = self.attack()
        eps = getattr(self, "eps", None)
        criterion = TargetedMisclassification(y) if self.targeted else Misclassification(y)
        network = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        try:
            _, clipped, _ = attack(network, x, criterion, epsilons=None if eps is None else self.in_unit_range(eps))
        except ValueError as error:
            if str(error) == "unsupported criterion":
                raise InvalidInputError(
                    f"targeted: Foolbox's {self.theirs.__name__} can't be used with targeted={self.targeted}"
                ) from error
            raise
        found: Tensor = clipped
        return found

    def attack(self) -> Attack:
        """Returns Foolbox's attack with these options, lengths for pixels in [0, 1]."""
        options = self.given(unit_range=True)
        options.pop("eps", None)
        if isinstance(options.get("distance"), str):
            options["distance"] = getattr(foolbox.distances, options["distance"])
        try:
            return self.theirs(**options)
        except ImportError as error:
            raise MissingRequirementError(
                f"Foolbox's {self.theirs.__name__} needs {error.name}; install it with: pip install {error.name}"
            ) from error
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise InvalidInputError(f"Foolbox's {self.theirs.__name__} refuses {options}: {error}") from error

    @property
    def norm(self) -> float | None:
        """The norm that Foolbox measures `eps` in: 0, 1, 2 or infinity; `None` where it measures none."""
        try:
            measured = self.attack().distance
        except (AttributeError, ValueError):  # none at all, or none was given
            return None
        return next((norm for name, norm in DISTANCES.items() if getattr(foolbox.distances, name) is measured), None)

    def _check_params(self) -> None:
        super()._check_params()
        self.attack()
        if getattr(self, "eps", None) is not None and not self.norm:  # Foolbox can't clip by L0 either
            way_out = "give `distance` too, 'l1', 'l2' or 'linf'" if hasattr(self, "distance") else "leave eps out"
            raise InvalidInputError(f"eps: Foolbox's {self.theirs.__name__} has no distance to clip by; {way_out}")


def attack_names() -> dict[str, str]:
    """Returns qadv's names of the attacks that can be used, each with the name of Foolbox's class or alias."""
    return {spelled(each): each for each in classes() if each not in left_out()}


def attack_class(name: str) -> type[FoolboxAttack]:
    """Returns the ART attack class of an attack of Foolbox, one for each class.

    Args:
        name: qadv's name or Foolbox's, e.g. `"foolbox-linf-pgd"`, `"LinfPGD"`.

    Raises:
        UnknownNameError: there is none, or it can't be an ART attack; the message says why.
    """
    theirs = attack_names().get(name, name)
    if theirs in left_out():
        raise UnknownNameError(f"Foolbox's {theirs} can't be an ART attack: {left_out()[theirs]}")
    if theirs not in classes():
        raise UnknownNameError(f"no attack {name!r} in Foolbox{closest(name, [*names(), *classes()])}")
    return _made(getattr(foolbox.attacks, theirs))


def create(name: str, *args: Any, **options: Any) -> FoolboxAttack:
    """Returns `attack_class(name)(*args, **options)`."""
    return attack_class(name)(*args, **options)


@cache
def _made(theirs: type[Attack]) -> type[FoolboxAttack]:
    about = (inspect.getdoc(theirs) or "").split("\n\n")[0]
    return FoolboxAttack.of(
        theirs.__name__,
        _options(theirs),
        theirs=theirs,
        __module__="qadv_foolbox",
        __doc__=f"`foolbox.attacks.{theirs.__name__}` as an ART attack; see `FoolboxAttack`.\n\n{about}",
    )


def _options(theirs: type[Attack]) -> Iterator[Parameter]:
    if issubclass(theirs, FixedEpsilonAttack):
        yield Parameter("eps", Parameter.KEYWORD_ONLY, annotation=PositiveLength)
    elif issubclass(theirs, MinimizationAttack):
        yield Parameter("eps", Parameter.KEYWORD_ONLY, default=None, annotation=PositiveLength | None)
    types = get_type_hints(theirs.__init__)
    for option in inspect.signature(theirs.__init__).parameters.values():
        if option.name != "self" and option.kind not in (option.VAR_POSITIONAL, option.VAR_KEYWORD):
            number = option.name in LENGTHS and isinstance(option.default, int | float)
            default = Share(option.default) if number else option.default
            yield option.replace(annotation=_annotation(option, types[option.name]), default=default)


def _annotation(option: Parameter, theirs: Any) -> Any:
    """Returns their annotation; lengths above 0, counts of at least 1 unless 0 is the default, distances by name."""
    if option.name in LENGTHS:
        return PositiveLength | None if type(None) in get_args(theirs) else PositiveLength
    if Distance in get_args(theirs):
        return theirs | Literal[tuple(DISTANCES)]
    return (
        Annotated[int, Field(ge=min(option.default, 1))]
        if theirs is int and option.default is not option.empty
        else theirs
    )
