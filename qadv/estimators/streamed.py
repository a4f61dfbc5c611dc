"""Lets a classifier take images batch by batch."""

from functools import wraps
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from qadv.errors import InvalidInputError
from qadv.estimators.protocol import Classifier
from qadv.sources import batches, is_source

C = TypeVar("C", bound=Classifier)


def takes_sources(kind: type[C]) -> type[C]:
    """Lets `predict` take what `qadv.sources` reads, too, and hold a batch of it at a time.

    That is done here since ART's metaclass makes an array of whatever a class's own methods are given.
    """
    arrays: Any = kind
    predict_arrays, fit_arrays = arrays.predict, arrays.fit

    @wraps(predict_arrays)
    def predict(self: C, x: Any, batch_size: int = 128, *args: Any, **kwargs: Any) -> Any:
        if not is_source(x):
            x = x.detach() if isinstance(x, Tensor) else x
            return predict_arrays(self, x, batch_size, *args, **kwargs)
        answers = [predict_arrays(self, images, batch_size, *args, **kwargs) for images, _ in batches(x, batch_size)]
        if not answers:
            raise InvalidInputError("x: expected images, got none")
        return np.concatenate(answers)

    @wraps(fit_arrays)
    def fit(self: C, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        if is_source(x):
            raise InvalidInputError("fit takes arrays; of qadv's trainers any takes these, or ART's fit_generator")
        return fit_arrays(self, x, y, *args, **kwargs)

    arrays.predict, arrays.fit = predict, fit
    return kind
