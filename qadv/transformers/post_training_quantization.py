"""Post-training quantization as an ART transformer: the pipelines of the pipeline study (docs/methods.md §6)."""

from dataclasses import replace
from typing import Any

import numpy as np
from art.attacks import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.checks import check_fields, check_flag
from qadv.errors import InvalidInputError
from qadv.quantization.calibration import Calibration, CalibrationImages
from qadv.quantization.convert import quantize
from qadv.quantization.rules import Rules, Schemes
from qadv.transformers.mu_law import prepared
from qadv.transformers.network_transformer import NetworkTransformer


class PostTrainingQuantization(NetworkTransformer):
    """Makes a quantized classifier from a trained float one, without training.

    **Reading** (docs/methods.md §6): what text of the paper we have names the stages at which robustness can enter, not
    how it enters calibration. Here the calibration images are replaced by adversarial ones against the float
    classifier, so that ranges, BatchNorm statistics and biases fit what an attacked network sees.

    Called with images x, (N, *input_shape) within `clip_values`, it takes those in place of the ones in `calibration`,
    whose other settings count.

    Args:
        classifier: a trained float ART `PyTorchClassifier`.
        weights, activations: schemes, or schemes by layer, see `qadv.quantize`; `"float"` for none.
        skip_first_last: leaves the weights of the first and the last layer in full precision. `MuLawWeightMapping` on
            the last layer wants `False`, or its weights are never quantized.
        calibration: images (N, *input_shape) within `clip_values`, or a `Calibration` with such images; defences on the
            input and standardisation are applied here. `None` is for schemes that need none (`int`, `relu6`).
        attack: an ART evasion attack on the float classifier, for robust calibration.
        attention: scheme of attention products, softmax and gates, see `qadv.quantize`.
    """

    params = ["weights", "activations", "skip_first_last", "calibration", "attack", "attention"]

    def __init__(
        self,
        classifier: PyTorchClassifier,
        weights: Schemes = "pwlq:4",
        activations: Schemes = "relu:4",
        skip_first_last: bool = True,
        calibration: Calibration | CalibrationImages | None = None,
        attack: EvasionAttack | None = None,
        attention: Schemes = "float",
    ) -> None:
        super().__init__(classifier)
        self._is_fitted = True
        self.weights = weights
        self.activations = activations
        self.skip_first_last = skip_first_last
        self.calibration = calibration
        self.attack = attack
        self.attention = attention
        self._check_params()

    def _network(self, classifier: PyTorchClassifier, x: NDArray[Any] | None) -> nn.Module:
        own = self.calibration
        calibration = None if own is None else Calibration.of(own)
        if x is not None:
            calibration = replace(own, images=x) if isinstance(own, Calibration) else Calibration(x)
        if calibration is not None:
            given = calibration.images
            images = np.asarray(given.numpy(force=True) if isinstance(given, Tensor) else given, dtype=np.float32)
            if self.attack is not None:
                images = np.asarray(self.attack.generate(x=images), dtype=np.float32)
            calibration = replace(calibration, images=prepared(classifier, images))
        elif self.attack is not None:
            raise InvalidInputError("attack: robust calibration needs images; give some as x, or as calibration=")
        schemes = self.weights, self.activations, self.skip_first_last
        return quantize(classifier.model, *schemes, calibration, self.attention)

    def _check_params(self) -> None:
        Rules(self.weights, "weights")
        Rules(self.activations, "activations")
        Rules(self.attention, "attention")
        check_fields(self, check_flag, "skip_first_last")
        if self.attack is not None and not isinstance(self.attack, EvasionAttack):
            raise InvalidInputError(
                f"attack: expected an ART evasion attack on the float classifier, got {type(self.attack).__name__}"
            )
        if self.calibration is not None:
            Calibration.of(self.calibration)
