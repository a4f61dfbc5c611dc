"""What a defense adds to training: which inputs, which terms of the loss, what is measured."""

from torch import Tensor

from qadv.trainers.network import TrainedNetwork


class Objective:
    """Base class; the training loop minimises the classifier's loss plus the terms of all its objectives.

    In each step the loop calls `step` and `inputs`, runs the network on what that returns, and then calls `terms`. What
    must happen after an optimizer step belongs to the module that needs it, as a method `after_step`: see
    `qadv.estimators.upkeep`. Draw with `network.draw`, so that training with several processes draws what one does.
    """

    def start(self, network: TrainedNetwork, image: Tensor) -> None:
        """Called once before training, with one preprocessed image, (1, …)."""

    def step(self, network: TrainedNetwork, step: int, nb_steps: int) -> None:
        """Called before each step, counted from 0 over the whole run; a resumed run begins with a later one."""

    def inputs(self, network: TrainedNetwork, x: Tensor, y: Tensor) -> Tensor:
        """Returns the images to train on, (N, …) in pixel values: `x` itself, or adversarial ones."""
        return x

    def terms(self, network: TrainedNetwork, x: Tensor, y: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Returns named scalars that are added to the loss; each is logged in the history.

        `network` was trained on `x` with labels `y`, (N,), in this step, and gave `logits`, (N, nb_classes), with their
        graph.
        """
        return {}

    def measure(self, network: TrainedNetwork) -> dict[str, object]:
        """Returns what to log once per epoch, as plain data for JSON."""
        return {}

    def finish(self, network: TrainedNetwork) -> None:
        """Called once after training, also after an interruption."""
