"""What a defense adds to training: which inputs, which terms of the loss, what is measured."""

from torch import Tensor, nn


class Objective:
    """Base class; the training loop minimises the classifier's loss plus the terms of all its objectives.

    What must happen after an optimizer step belongs to the module that needs it, as a method `after_step`: see
    `qadv.estimators.upkeep`.
    """

    def start(self, model: nn.Module, image: Tensor) -> None:
        """Called once before training, with one preprocessed image, (1, …)."""

    def inputs(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Returns the images to train on, (N, …) in pixel values: `x` itself, or adversarial ones."""
        return x

    def terms(self, model: nn.Module) -> dict[str, Tensor]:
        """Returns named scalars that are added to the loss; each is logged in the history."""
        return {}

    def measure(self, model: nn.Module) -> dict[str, object]:
        """Returns what to log once per epoch, as plain data for JSON."""
        return {}
