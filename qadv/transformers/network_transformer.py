"""What qadv's transformers share: a classifier round a changed copy of a network."""

from abc import abstractmethod
from typing import Any

from art.defences.transformer.transformer import Transformer
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import nn

from qadv.errors import InvalidInputError
from qadv.estimators.protocol import Classifier
from qadv.estimators.rebuilt import rebuilt


class NetworkTransformer(Transformer):
    """An ART transformer that replaces a classifier's network; a subclass says by which one, in `_network`.

    Loss, shapes, `clip_values`, preprocessing and defences are kept. The optimizer is not: its parameters are those of
    the old network. The classifier is an ART `PyTorchClassifier` or a subclass with the same constructor.
    """

    def __init__(self, classifier: PyTorchClassifier) -> None:
        _check_classifier("classifier", classifier)
        super().__init__(classifier)

    def __call__(
        self, x: NDArray[Any] | None = None, transformed_classifier: PyTorchClassifier | None = None
    ) -> PyTorchClassifier:
        """Returns the transformed classifier, for which it may need images x, (N, *input_shape) within `clip_values`.

        A `transformed_classifier` is transformed in place, as by ART's own transformers, and returned. Without one the
        transformer's `classifier` is, in a copy: it stays as it is.
        """
        if transformed_classifier is None:
            return rebuilt(self.classifier, self._network(self.classifier, x))
        _check_classifier("transformed_classifier", transformed_classifier)
        new = rebuilt(transformed_classifier, self._network(transformed_classifier, x))
        vars(transformed_classifier).update(vars(new))
        return transformed_classifier

    def fit(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> None:
        """There is nothing to fit."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.params)
        return f"{type(self).__name__}({shown})"

    @abstractmethod
    def _network(self, classifier: PyTorchClassifier, x: NDArray[Any] | None) -> nn.Module:
        """Returns the new network of a classifier, whose own stays as it is."""


def _check_classifier(name: str, classifier: Classifier) -> None:
    if not isinstance(classifier, PyTorchClassifier):
        raise InvalidInputError(f"{name}: expected an ART PyTorchClassifier, got {type(classifier).__name__}")
