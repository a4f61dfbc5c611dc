"""Schemes by name: `"int:4"`, `"bwn"`, `"relu6:2"`, `"my-distribution/pow2:3"`, or `"float"` for none."""

import re
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeVar

from qadv.errors import SchemeError, UnknownNameError
from qadv.quantization.quantizer import ActivationQuantizer, WeightQuantizer
from qadv.registry import default_registry

Q = TypeVar("Q", WeightQuantizer, ActivationQuantizer)
Role = Literal["weights", "activations", "attention"]
_LONGEST = 1000  # characters of a scheme; Python reads no number of more than 4,300 digits


class Scheme:
    """One published way to quantize weights, activations, or both.

    Subclass it, name the quantizers, and register the class as a `quantizer` component. A quantizer is called with
    `bits` and `spec` once for each layer.

    Attributes:
        bits_choices: the bit widths it exists at.
        takes_bits: whether users write `name:bits`; otherwise `bits_choices` has the one width.
        takes_scheme: whether users write `name(scheme)`; it is then made with that scheme as `inner`, without `bits`.
        weights: the quantizer of weights, or `None`.
        activations: the quantizer that takes the place of a ReLU, or `None`.
        inputs: the quantizer put before a layer whose input is not what an activation gave (see `quantize`), or `None`.
        operands, gates: the quantizers of both operands of a product of activations, and of what a softmax or a sigmoid
            gives, or `None`.
        from_data: for a fixed range, the scheme with a range from data that such inputs get when calibrated.
    """

    bits_choices: ClassVar[Sequence[int]] = range(1, 9)
    takes_bits: ClassVar[bool] = True
    takes_scheme: ClassVar[bool] = False
    weights: ClassVar[type[WeightQuantizer] | None] = None
    activations: ClassVar[type[ActivationQuantizer] | None] = None
    inputs: ClassVar[type[ActivationQuantizer] | None] = None
    operands: ClassVar[type[ActivationQuantizer] | None] = None
    gates: ClassVar[type[ActivationQuantizer] | None] = None
    from_data: ClassVar["type[Scheme] | None"] = None

    def __init__(self, bits: int | None = None, spec: str = "") -> None:
        self.spec = spec or type(self).__name__.lower() + (f":{bits}" if bits is not None else "")
        name = self.spec.partition(":")[0]
        choices = list(self.bits_choices)
        if self.takes_bits:
            if bits is None:
                raise SchemeError(f"scheme {self.spec!r}: bits are missing; write it as '{name}:{choices[-1]}'")
            if bits not in choices:
                raise SchemeError(
                    f"scheme {self.spec!r}: {name} exists at {choices[0]} to {choices[-1]} bits, got {bits}"
                )
        elif bits is not None:
            raise SchemeError(f"scheme {self.spec!r}: {name} has a fixed bit width; write it as '{name}'")
        self.bits = choices[0] if bits is None else bits

    def for_weights(self) -> WeightQuantizer:
        """Returns a new quantizer for one layer's weights."""
        return self._made(self.weights, "quantizes activations, not weights")

    def for_activation(self) -> ActivationQuantizer:
        """Returns a new quantizer that takes the place of one ReLU."""
        return self._made(self.activations, "quantizes weights, not activations")

    def for_input(self) -> ActivationQuantizer:
        """Returns a new signed quantizer for the input of one layer."""
        return self._made(self.inputs, "has no signed form, which layers need whose input does not come from a ReLU")

    def for_attention(self) -> tuple[ActivationQuantizer, ActivationQuantizer]:
        """Returns new quantizers for the operands of one module's products, and for its gates."""
        problem = "is not for attention, which takes 'int:8'"
        return self._made(self.operands, problem), self._made(self.gates, problem)

    def _made(self, kind: type[Q] | None, otherwise: str) -> Q:
        if kind is None:
            raise SchemeError(f"scheme {self.spec!r} {otherwise}")
        return kind(bits=self.bits, spec=self.spec)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(bits={self.bits}, spec={self.spec!r})"


def parse_scheme(spec: str, role: Role) -> Scheme | None:
    """Turns `"name"`, `"name:bits"` or `"name(scheme)"` into a scheme for weights or activations; `"float"` is none.

    Raises:
        SchemeError: unknown name, bits it does not exist at, or a scheme for the other role.
    """
    if not isinstance(spec, str):
        raise SchemeError(f"{role}: expected a scheme such as 'int:4' or 'float', got {spec!r}")
    if len(spec) > _LONGEST:
        raise SchemeError(
            f"{role}: expected a scheme such as 'int:4' or 'float', got a text of {len(spec):,} characters"
        )
    if spec == "float":
        return None
    wrapped = re.fullmatch(r"([^:()]+)\((.*)\)", spec)
    if not wrapped and ("(" in spec or ")" in spec):
        raise SchemeError(f"{role}={spec!r}: a scheme round another is written 'sq(bwn)', with nothing behind the ')'")
    name, colon, bits = (wrapped[1], "", "") if wrapped else spec.partition(":")
    if colon and not re.fullmatch("[1-9][0-9]*|0", bits):
        raise SchemeError(f"{role}={spec!r}: the part after ':' is the number of bits, e.g. '{name}:4'")
    try:
        factory = default_registry().load("quantizer", name)
    except UnknownNameError as error:
        raise SchemeError(f"{role}={spec!r}: {error}") from error
    if getattr(factory, "takes_scheme", False) != bool(wrapped):
        example = f"'{name}:4'" if wrapped else f"'{name}(bwn)'"
        raise SchemeError(f"{role}={spec!r}: {name} takes {'no scheme' if wrapped else 'a scheme'}, e.g. {example}")
    if wrapped:
        if getattr(factory, role, None) is None:
            raise SchemeError(f"{role}={spec!r}: {name} is not for {role}")
        inner = parse_scheme(wrapped[2], role)
        if inner is None:
            raise SchemeError(f"{role}={spec!r}: there is nothing to wrap round 'float'")
        scheme = factory(inner=inner, spec=spec)
    else:
        scheme = factory(bits=int(bits) if colon else None, spec=spec)
    if not isinstance(scheme, Scheme):
        raise SchemeError(f"{role}={spec!r}: {factory!r} is not a subclass of qadv.quantization.Scheme")
    if role == "attention":
        scheme.for_attention()
    elif getattr(scheme, role) is None:
        other = "activations" if role == "weights" else "weights"
        raise SchemeError(f"{role}={spec!r}: {name} quantizes {other}; give it as {other}={spec!r}")
    return scheme
