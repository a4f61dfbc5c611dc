"""`SignatureAttack`: an ART attack whose options are those of another toolkit's attack, read from its signature."""

import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from art.estimators.classification import PyTorchClassifier
from pydantic import ConfigDict, TypeAdapter, ValidationError

from qadv.attacks.toolkit import ToolkitAttack
from qadv.errors import InvalidInputError
from qadv.strengths import is_fraction, number
from qadv.units import Share

_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_Kind = inspect.Parameter


class SignatureAttack(ToolkitAttack):
    """Base class for all attacks of a toolkit: `perturb` is written once, `of` makes a class for each of them.

    A class made by `of` is an ART attack like one that is written by hand: each option is a keyword argument, an
    attribute, in `attack_params` and in `repr`, and is checked by its annotation whenever it is set. Those of
    `ToolkitAttack` come with it.

        class Theirs(qadv.SignatureAttack):
            def perturb(self, model, x, y):
                return self.theirs(model, **self.given())(x, y)

        steps = inspect.Parameter("steps", inspect.Parameter.KEYWORD_ONLY, default=10, annotation=int)
        PGD = Theirs.of("PGD", [steps], theirs=their.PGD)
        PGD(classifier, steps=20).generate(x, y)

    Args:
        estimator: an ART `PyTorchClassifier` with `clip_values`, e.g. a `QuantizedClassifier`.
        options: those of `signature_options`, and those of `ToolkitAttack`.

    Raises:
        TypeError: an option is missing, or does not exist.
        InvalidInputError: an option is not of its type, or the estimator can't be one torch module.
    """

    signature_options: ClassVar[Mapping[str, inspect.Parameter]] = MappingProxyType({})

    def __init__(self, estimator: PyTorchClassifier, **options: Any) -> None:
        bound = inspect.signature(type(self)).bind(estimator, **options)
        bound.apply_defaults()
        given = dict(bound.arguments)
        shared = {name: given[name] for name in ("targeted", "batch_size", "seed", "verbose")}
        super().__init__(estimator, **shared)
        for name in self.signature_options:
            value = given[name]
            setattr(self, name, self.in_pixels(name, value) if isinstance(value, Share) else value)
        self._check_params()

    @classmethod
    def of(cls, name: str, options: Iterable[inspect.Parameter], **members: Any) -> type[Self]:
        """Makes a subclass.

        Args:
            name: of the class.
            options: its parameters besides those of `ToolkitAttack`. An annotation that pydantic understands, or a
                class, is what a value must be, strictly: no text for a number but a fraction such as `"8/255"`,
                neither NaN nor infinity. The default of a length is a `Share`, and its annotation that of a number.
            members: what else the class has, e.g. `__doc__`, `__module__`.

        Raises:
            InvalidInputError: an option has the name of one of `ToolkitAttack`.
        """
        shared = inspect.signature(ToolkitAttack).parameters
        by_name = {option.name: option.replace(kind=_Kind.KEYWORD_ONLY) for option in options}
        if taken := sorted(set(by_name) & set(shared)):
            raise InvalidInputError(
                f"options of {name}: {', '.join(taken)} is an option of every ToolkitAttack; leave it out"
            )
        estimator, *rest = shared.values()
        parameters = [estimator, *by_name.values(), *(each.replace(kind=_Kind.KEYWORD_ONLY) for each in rest)]
        metaclass: Any = type(cls)
        made: type[Self] = metaclass(
            name,
            (cls,),
            {
                "signature_options": MappingProxyType(by_name),
                "attack_params": [*by_name, *cls.attack_params],
                "__signature__": inspect.Signature(parameters),
                **members,
            },
        )
        return made

    def given(self) -> dict[str, Any]:
        """Returns the options by name, without those of `ToolkitAttack`."""
        return {name: getattr(self, name) for name in self.signature_options}

    def _check_params(self) -> None:
        super()._check_params()
        for name, option in self.signature_options.items():
            value = getattr(self, name)
            if is_fraction(value):
                value = number(name, value)
                setattr(self, name, value)
            if option.annotation is not option.empty:
                _check_type(name, value.item() if isinstance(value, np.generic) else value, option.annotation)
            if name == "eps" and isinstance(value, int | float):
                norm = getattr(self, "norm", None)
                self.checked_eps(name, value, norm if norm in (1, 2, np.inf) else 1)  # in none it may be larger


def _check_type(name: str, value: Any, annotation: Any) -> None:
    try:
        TypeAdapter(annotation, config=_CONFIG).validate_python(value)
    except ValidationError as error:
        expected = " or ".join(dict.fromkeys(each["msg"].removeprefix("Input should be ") for each in error.errors()))
        raise InvalidInputError(f"{name}: expected {expected}, got {value!r}") from None
