"""How far a network's logits lie apart, and how sure it is (low-bitwidth study §5.1.2; DQ figure 7)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from qadv.checks import check_whole
from qadv.diagnostics.measured import Measured
from qadv.estimators.checks import check_pair
from qadv.estimators.door import predict_logits
from qadv.estimators.protocol import Classifier
from qadv.modes import evaluation_mode
from qadv.tables import number, text_table


@dataclass(frozen=True)
class LogitStatistics(Measured):
    """Means over N images; prints as a table.

    Attributes:
        samples: number of images, N.
        variance: of an image's logits over the classes (not of a sample: divided by their number). **Reading:** the
            paper says "the variance of the logits values"; adding a number to all logits of an image changes nothing.
        confidence: the largest probability of an image.
        true_probability: that of its true class.
    """

    samples: int
    variance: float
    confidence: float
    true_probability: float

    def __str__(self) -> str:
        names = ("variance", "confidence", "true_probability")
        rows = [[name.replace("_", " "), number(getattr(self, name))] for name in names]
        return text_table(f"Logits, {self.samples} images", ["", "mean"], rows)


def logit_statistics(classifier: Classifier, x: NDArray[Any], y: Any, batch_size: int = 128) -> LogitStatistics:
    """Measures logits on images, clean or adversarial.

    Args:
        classifier: an ART `PyTorchClassifier`; of one with `probabilities=True` the logits are measured.
        x, y: images, (N, *input_shape), and their true classes, indices or one-hot.
        batch_size: images per pass.

    Raises:
        InvalidInputError: the classifier has other postprocessors.
    """
    x, labels = check_pair(classifier, x, y)
    with evaluation_mode(classifier.model):
        logits = predict_logits(classifier, x, check_whole("batch_size", batch_size)).astype(np.float64)
    sure = softmax(logits, axis=1)
    found = logits.var(axis=1), sure.max(axis=1), sure[np.arange(len(x)), labels]
    return LogitStatistics(len(x), *(float(values.mean()) for values in found))
