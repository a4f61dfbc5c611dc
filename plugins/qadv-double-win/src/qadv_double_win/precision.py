"""The precision that a network runs at: what can be switched, and `set_precision`, which switches all of it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qadv.checks import check_whole, is_whole
from qadv.errors import InvalidInputError


class HasPrecision(nn.Module):
    """Mixed into modules that work at one of several precisions.

    The precision is a buffer, so that it is saved, copied and resumed with the network, and a Python number beside it,
    so that no pass waits for a GPU to say it.
    """

    precision_buffer: Tensor
    precision: int

    def start_with(self, precisions: Iterable[int]) -> None:
        """Registers the buffer; the precision is the last of those that there are, ascending, at first."""
        self.precisions = tuple(precisions)
        self.precision = self.precisions[-1]
        self.register_buffer("precision_buffer", torch.tensor(self.precision))

    def check_precision(self, bits: int) -> None:
        """Refuses a precision that this module does not have.

        Raises:
            InvalidInputError: it is another one, or no whole number.
        """
        if not is_whole(bits) or bits not in self.precisions:
            known = ", ".join(map(str, self.precisions))
            raise InvalidInputError(f"precision: {type(self).__name__} has {known} bits, got {bits!r}")

    def set_precision(self, bits: int) -> None:
        """Works at `bits` from now on; errors as of `check_precision`."""
        self.check_precision(bits)
        self.precision = int(bits)
        self.precision_buffer.fill_(bits)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.precision_buffer.is_meta:
            self.set_precision(int(self.precision_buffer))


def switchable_modules(model: nn.Module) -> list[HasPrecision]:
    """Returns all that has a precision in a network.

    Raises:
        InvalidInputError: there is nothing, or the network is frozen, with weights that stay what they are.
    """
    found = [module for module in model.modules() if isinstance(module, HasPrecision)]
    quantizers = [getattr(module, "weight_quantizer", None) for module in model.modules()]
    if any(isinstance(q, HasPrecision) and not any(q is module for module in found) for q in quantizers):
        raise InvalidInputError("the network is frozen, or packed: its weights have one precision; switch the original")
    if not found:
        raise InvalidInputError(
            "nothing in the network is switchable; quantize it with "
            "quantize(model, weights='switchable:8', activations='switchable:8')"
        )
    return found


def set_precision(network: Any, bits: int) -> int:
    """Switches weights, activations and BatchNorms of a network to one precision.

    Args:
        network: a network quantized with `switchable:k`, or a classifier that holds one.
        bits: 2 to k; with `switchable-norm` one of its precisions.

    Returns:
        The number of modules that were switched.

    Raises:
        InvalidInputError: a part of the network does not have this precision, or nothing is switchable; then nothing
            is changed.
    """
    modules = switchable_modules(network if isinstance(network, nn.Module) else network.model)
    for module in modules:
        module.check_precision(bits)
    for module in modules:
        module.set_precision(bits)
    return len(modules)


def check_precisions(precisions: Any) -> tuple[int, ...]:
    """Returns a candidate set, ascending.

    Raises:
        InvalidInputError: it is empty, has a number twice, or something else than whole numbers from 2 to 16.
    """
    given = precisions if isinstance(precisions, list | tuple | range | set | frozenset) else ()
    found = [check_whole("precisions", bits, least=2, most=16) for bits in given]
    if not found or len(set(found)) != len(found):
        raise InvalidInputError(
            f"precisions: expected different whole numbers from 2 to 16, e.g. (4, 5, 6, 7, 8), got {precisions!r}"
        )
    return tuple(sorted(found))
