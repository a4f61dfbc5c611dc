"""What a conversion decided layer by layer, in a form that travels with saved networks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from qadv.errors import InvalidInputError

# an input quantizer of the layer's own; any other word is the name of the activation that the layer reads
SIGNED, UNSIGNED = "own, signed", "own, unsigned"


@dataclass(frozen=True)
class Plan:
    """Which weights stay float, and where the quantized input of each layer comes from.

    Saved with a network, so that loading does not depend on how well some version of torch traces code.

    Attributes:
        kept: layers whose weights stay float as first or last layer, and ReLUs that clip the images themselves.
        inputs: layer to `SIGNED` or `UNSIGNED`, a quantizer of its own, or to the name of the activation whose levels
            it reads; layers with a float input are not in it.
        bounds: whether the bounds of activations are kept, and clips written as functions are activations.
        from_data: whether layers' own input quantizers take their ranges from data where their scheme's is fixed.
    """

    kept: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    bounds: bool = True
    from_data: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {**asdict(self), "kept": list(self.kept), "inputs": dict(self.inputs)}

    @classmethod
    def from_dict(cls, data: Any) -> "Plan":
        """Returns the plan that `to_dict` wrote; all else is an `InvalidInputError`."""
        try:
            kept, inputs, flags = data["kept"], data["inputs"], [data["bounds"], data["from_data"]]
            sound = all(isinstance(text, str) for text in [*kept, *inputs.keys(), *inputs.values()])
        except (TypeError, KeyError, AttributeError) as error:
            raise InvalidInputError(f"expected a plan, as `Plan.to_dict` gives it, got {data!r}") from error
        if not sound or not all(isinstance(flag, bool) for flag in flags):
            raise InvalidInputError(f"expected a plan of layers' names, got {data!r}")
        return cls(tuple(kept), dict(inputs), *flags)


FORMAT_1 = Plan(bounds=False)  # networks saved before there were plans: decided anew, by the rules of then
