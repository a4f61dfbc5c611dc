"""The form in which ART calls a classifier's network."""

import re

import torch
from torch import Tensor, nn

from qadv.errors import InvalidInputError

_EXPORT = 'export it with dynamic_shapes=({0: torch.export.Dim("batch")},)'


class Logits(nn.Module):
    """Returns `[logits]`, whatever the network's class.

    ART's own wrapper lists the outputs of all parts where the network is an `nn.Sequential`, and some of its trainers
    then take the first part's output for logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the logits, (N, nb_classes), in a list; where it fails, says what to do if that is known."""
        try:
            return [self._model(x)]
        except (RuntimeError, AssertionError) as error:
            if hint := advice(self._model, error):
                raise InvalidInputError(f"the model fails: {error}{hint}") from error
            raise

    @property
    def get_layers(self) -> list[str]:
        """Names of the network's parts, for `layer_names`."""
        found = dict(self._model.named_children())
        if "twin" in found:  # of a file: the layers that it has
            return [f"layers.{name}" for name, _ in found["layers"].named_children()]
        return list(found)


def advice(network: nn.Module, error: Exception) -> str:
    """Returns what to do about an error of a network, or an empty string.

    It may be that of a graph exported for another number of images, or come from parameters that are not float32.
    """
    if re.search(r"(Guard failed|Expected input).*(size\(\)|shape)\[0\]", str(error)):
        return ". It was exported for one number of images: " + _EXPORT
    dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()} - {torch.float32}
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    return f". Its parameters are {names}; qadv computes in float32: write model.float()" if names else ""
