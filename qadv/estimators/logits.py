"""The form in which ART calls a classifier's network."""

import torch
from torch import Tensor, nn

from qadv.errors import InvalidInputError


class Logits(nn.Module):
    """Returns `[logits]`, whatever the network's class.

    ART's own wrapper lists the outputs of all parts where the network is an `nn.Sequential`, and some of its trainers
    then take the first part's output for logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the logits, (N, nb_classes), in a list; where it fails, names parameters that are not float32."""
        try:
            return [self._model(x)]
        except RuntimeError as error:
            if hint := other_dtypes(self._model):
                raise InvalidInputError(f"the model fails: {error}{hint}") from error
            raise

    @property
    def get_layers(self) -> list[str]:
        """Names of the network's parts, for `layer_names`."""
        found = dict(self._model.named_children())
        if "twin" in found:  # of a file: the layers that it has
            return [f"layers.{name}" for name, _ in found["layers"].named_children()]
        return list(found)


def other_dtypes(network: nn.Module) -> str:
    """Returns what to do about parameters that are not float32, or an empty string."""
    dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()} - {torch.float32}
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    return f". Its parameters are {names}; qadv computes in float32: write model.float()" if names else ""
