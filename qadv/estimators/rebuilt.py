"""A classifier like another, round another network."""

from typing import Any, TypeVar

from art.estimators.classification import PyTorchClassifier
from torch import nn

from qadv.errors import InvalidInputError

C = TypeVar("C", bound=PyTorchClassifier)
_KEPT = (
    "loss", "input_shape", "nb_classes", "channels_first", "clip_values", "preprocessing", "device_type",
    "preprocessing_defences", "postprocessing_defences",
)  # fmt: skip


def rebuilt(classifier: C, model: nn.Module, **changed: Any) -> C:
    """Returns a classifier of the same class round another network, without optimizer; `changed` are new arguments."""
    return like(type(classifier), classifier, model, **changed)


def like(kind: type[C], classifier: PyTorchClassifier, model: nn.Module, **changed: Any) -> C:
    """As `rebuilt`, of a class; one whose constructor takes other arguments is an `InvalidInputError`."""
    given = {name: getattr(classifier, name) for name in _KEPT}
    given |= {name: list(value) for name, value in given.items() if name.endswith("_defences") and value is not None}
    try:
        new: C = kind(**{"model": model, "optimizer": None, **given, **changed})
    except TypeError as error:
        raise InvalidInputError(
            f"a {kind.__name__} can't be made again round another network ({error}); transform the plain "
            "PyTorchClassifier or QuantizedClassifier in it, and make the other from the result"
        ) from error
    return new
