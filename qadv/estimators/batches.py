"""Whether images may be put into one batch."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from qadv.estimators import door
from qadv.estimators.answers import errors
from qadv.estimators.forms import outermost
from qadv.modes import in_mode
from qadv.random_states import global_states_kept

BOUND = 1e-3
_CONTRASTS = 1.0, 0.4, 0.2, 0.1
_KNOWN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def answers_alone(classifier: PyTorchClassifier) -> bool:
    """Whether an image is answered alike, but for rounding, whatever else is in its batch.

    It is not where a scale is found batch by batch, as in torch.ao's dynamic layers. Tried once for each network, and
    again when its layers become others in place, on drawn images of different contrast; one that draws random numbers
    counts as alike.
    """
    form = getattr(classifier.model, "form", classifier.model)
    if form not in _KNOWN:
        low, high = outermost(classifier.clip_values) or (0.0, 1.0)
        shape = len(_CONTRASTS), *classifier.input_shape
        drawn = np.random.default_rng(0).uniform(low - high, high - low, shape) / 2
        contrasts = np.reshape(_CONTRASTS, (-1, *[1] * len(classifier.input_shape)))
        images = ((low + high) / 2 + contrasts * drawn).astype(np.float32)
        with in_mode(classifier.model, training=False), global_states_kept():
            together, again, alone = (_logits(classifier, images, size) for size in (4, 4, 1))
        alike = bool(errors(alone, together).median() <= BOUND)
        _KNOWN[form] = alike or not torch.equal(together, again)
    return _KNOWN[form]


def _logits(classifier: Any, images: Any, size: int) -> torch.Tensor:
    return torch.from_numpy(door.predict(classifier, images, size))
