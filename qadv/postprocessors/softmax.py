"""`Softmax`: logits become probabilities."""

from typing import Any

import numpy as np
import torch
from art.defences.postprocessor import Postprocessor
from numpy.typing import NDArray


class Softmax(Postprocessor):
    """Makes `predict` return probabilities, for the attacks that ask for them (SimBA, VirtualAdversarialMethod).

    The network, its loss and its gradients stay those of the logits, also in training. A postprocessor stays with a
    classifier that an attack rebuilds from the model.
    """

    def __init__(self, apply_fit: bool = False, apply_predict: bool = True) -> None:
        super().__init__(is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)

    def __call__(self, preds: NDArray[Any]) -> NDArray[np.float32]:
        """Returns probabilities, (N, nb_classes) float32 with rows that sum to 1, for logits of that shape."""
        return torch.from_numpy(preds).softmax(1).numpy()

    def __repr__(self) -> str:
        return f"Softmax(apply_fit={self.apply_fit}, apply_predict={self.apply_predict})"


def with_softmax(postprocessors: Any) -> list[Postprocessor]:
    """Returns ART postprocessors (one, a list, or `None`) with a `Softmax` before them, where there is none yet."""
    given = [postprocessors] if isinstance(postprocessors, Postprocessor) else list(postprocessors or [])
    return given if any(isinstance(postprocessor, Softmax) for postprocessor in given) else [Softmax(), *given]
