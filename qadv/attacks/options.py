"""The types of an attack's options: what an annotation says is checked, by the rules of `qadv.checks`."""

import math
from dataclasses import dataclass
from inspect import Parameter
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias, Union, get_args, get_origin

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from qadv.checks import check_choice, check_flag, check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.strengths import check_eps
from qadv.units import Share, in_pixels

if not TYPE_CHECKING:
    from qadv.units import Length

_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_ENDS = ("gt", "ge", "lt", "le")


@dataclass(frozen=True)
class Radius:
    """Marks a `Length` as a distance between images, at most that of two corners of the pixels' range.

    `norm` is 1, 2 or infinity, or the name of the attribute that says so; anything else may be as far as L1 allows.
    """

    norm: float | str = math.inf


@dataclass(frozen=True, init=False)
class OneOf:
    """Allows these values alone, numbers or texts; `True` is not 1."""

    choices: tuple[Any, ...]

    def __init__(self, *choices: Any) -> None:
        object.__setattr__(self, "choices", choices)


if TYPE_CHECKING:  # the class takes a share, its function gets a number: no checker's type says both
    Length: TypeAlias = Any
    Eps: TypeAlias = Any
    PositiveLength: TypeAlias = Any
else:
    Eps = Annotated[Length, Field(ge=0), Radius()]
    PositiveLength = Annotated[Length, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Part = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0)] | None


class _Type(NamedTuple):
    """An annotation, split into its types without `None`, whether `None` is allowed, and its metadata."""

    plain: Any
    optional: bool
    said: tuple[Any, ...]

    @classmethod
    def of(cls, annotation: Any, optional: bool = False, said: tuple[Any, ...] = ()) -> "_Type":
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            more = (each for one in arguments[1:] for each in (one.metadata if isinstance(one, FieldInfo) else [one]))
            return cls.of(arguments[0], optional, (*more, *said))
        if origin in (Union, UnionType) and NoneType in arguments:
            return cls.of(Union[tuple(each for each in arguments if each is not NoneType)], True, said)  # noqa: UP007
        return cls(annotation, optional, said)

    @property
    def parts(self) -> set[Any]:
        return set(get_args(self.plain)) if get_origin(self.plain) in (Union, UnionType) else {self.plain}


def is_length(annotation: Any) -> bool:
    """Whether an option is a length in pixels, which may be given as a `Share` of their range or as `"8/255"`."""
    return Share in _Type.of(annotation).parts


def length(annotation: Any, *said: Any) -> Any:
    """Returns the annotation of a number as that of a length, with more metadata; other annotations unchanged."""
    found = _Type.of(annotation)
    if not found.parts <= {int, float, Share}:
        return annotation
    made: Any = Annotated[(Length, *found.said, *said)] if found.said or said else Length
    return made | None if found.optional else made


def shown(annotation: Any) -> Any:
    """Returns an annotation without its metadata, for the signature that users see."""
    found = _Type.of(annotation)
    return found.plain | None if found.optional else found.plain


def check_option(name: str, value: Any, annotation: Any, attack: Any) -> Any:
    """Returns an option of an attack as it is stored: numbers as Python's own, lengths in the units of `clip_values`.

    The annotation is of flags, whole numbers, numbers and lengths, with bounds of pydantic's `Field`, `Radius` and
    `OneOf`; everything else that pydantic understands, or a class, strictly. None at all takes everything.
    """
    kind = _Type.of(annotation)
    if isinstance(value, Share):
        value = in_pixels(name, value, attack.estimator.clip_values)
    if kind.plain in (Any, Parameter.empty) or (value is None and kind.optional):
        return value
    ends = {end: bound for each in kind.said for end in _ENDS if (bound := getattr(each, end, None)) is not None}
    marks = {type(each): each for each in kind.said}
    known = True
    if OneOf in marks:
        value = check_choice(name, value, marks[OneOf].choices)
    elif kind.plain is bool:
        value = check_flag(name, value)
    elif kind.plain is int:
        least = ends.get("ge", ends.get("gt", -math.inf) + 1)
        value = check_whole(name, value, least, ends.get("le", ends["lt"] - 1 if "lt" in ends else None))
    elif kind.parts <= {int, float}:
        below, most = ends.get("lt", math.inf), ends.get("le", math.inf)
        value = check_number(name, value, below, "ge" in ends, most, ends.get("ge", ends.get("gt", -math.inf)))
    elif Share in kind.parts:
        value = _length(name, value, "gt" not in ends, marks.get(Radius), attack)
    else:
        known = False
    if known and all(
        isinstance(each, Radius | OneOf | str) or any(hasattr(each, e) for e in _ENDS) for each in kind.said
    ):
        return value
    value = value.item() if isinstance(value, np.generic) else value
    try:
        TypeAdapter(annotation, config=_CONFIG).validate_python(value)
    except ValidationError as error:
        expected = " or ".join(dict.fromkeys(each["msg"].removeprefix("Input should be ") for each in error.errors()))
        raise InvalidInputError(f"{name}: expected {expected}, got {value!r}") from None
    return value


def _length(name: str, value: Any, zero: bool, radius: Radius | None, attack: Any) -> float:
    """Returns a length in pixels, above 0 or with `zero` of at least 0."""
    if radius is None:
        return check_eps(name, value, zero=zero)
    norm = getattr(attack, radius.norm, None) if isinstance(radius.norm, str) else radius.norm
    norm = float(norm) if norm in (1, 2, math.inf, "1", "2", "inf") else 1
    estimator = attack.estimator
    return check_eps(name, value, estimator.clip_values, norm, math.prod(estimator.input_shape), zero)
