"""The form in which ART calls a classifier's network."""

from torch import Tensor, nn


class Logits(nn.Module):
    """Returns `[logits]`, whatever the network's class.

    ART's own wrapper lists the outputs of all parts where the network is an `nn.Sequential`, and some of its trainers
    then take the first part's output for logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the logits, (N, nb_classes), in a list."""
        return [self._model(x)]

    @property
    def get_layers(self) -> list[str]:
        """Names of the network's parts, for `layer_names`."""
        return list(self._model._modules)
