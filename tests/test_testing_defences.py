"""Trainers, transformers, preprocessors, postprocessors and detectors that break one rule each are caught."""

import copy

import numpy as np
import torch
from art.defences.detector.evasion import EvasionDetector
from art.defences.postprocessor import Postprocessor
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.defences.trainer import Trainer

import qadv
from qadv.estimators.checks import check_images
from qadv.testing import conformance, digits_classifier
from qadv.trainers.loop_trainer import LoopTrainer
from qadv.transformers.network_transformer import NetworkTransformer
from tests.planted import Offenders

QUIET = {"lr": 0.1, "verbose": False}
TRAINERS = Offenders("trainer", **QUIET)
test_sound_trainer = conformance("trainer", LoopTrainer, **QUIET)


@TRAINERS.breaks("contract", "NoTrainer")
class NoTrainer:
    def __init__(self, classifier, **options):
        pass


@TRAINERS.breaks("contract", "another")
class TrainsACopy(LoopTrainer):
    def get_classifier(self):
        return copy.deepcopy(self._classifier)


@TRAINERS.breaks("contract", "unchanged")
class DoesNothing(LoopTrainer):
    def fit(self, x, y, validation_data=None, batch_size=128, nb_epochs=20, **kwargs):
        pass


@TRAINERS.breaks("contract", "NaN or infinity in")
class Diverges(LoopTrainer):
    def fit(self, x, y, validation_data=None, batch_size=128, nb_epochs=20, **kwargs):
        super().fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs)
        next(self._classifier.model.parameters()).data.fill_(np.nan)


@TRAINERS.breaks("learns", "%")
class LearnsTheWrongLabels(LoopTrainer):
    def fit(self, x, y, validation_data=None, batch_size=128, nb_epochs=20, **kwargs):
        labels = y.argmax(1) if y.ndim == 2 else y
        super().fit(x, (labels + 1) % 10, batch_size=batch_size, nb_epochs=nb_epochs)


@TRAINERS.breaks("labels", "differs")
class MisreadsIndices(LoopTrainer):
    def fit(self, x, y, validation_data=None, batch_size=128, nb_epochs=20, **kwargs):
        super().fit(x, y if y.ndim == 2 else y[::-1].copy(), batch_size=batch_size, nb_epochs=nb_epochs)


@TRAINERS.breaks("attacked-afterwards", "zero for 100%")
class MasksTheGradient(LoopTrainer):
    def fit(self, x, y, validation_data=None, batch_size=128, nb_epochs=20, **kwargs):
        super().fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs)
        with torch.no_grad():
            next(self._classifier.model.parameters()).zero_()


@TRAINERS.breaks("save-and-load", "by up to")
class ScalesInAHook(LoopTrainer):
    def fit(self, x, y, validation_data=None, batch_size=128, nb_epochs=20, **kwargs):
        super().fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs)
        self._classifier.model.register_forward_hook(lambda module, inputs, output: 2 * output)


@TRAINERS.breaks("bad-input", "as if nothing was wrong")
class TakesAnyClassifier(LoopTrainer):
    def __init__(self, classifier, **options):
        if isinstance(classifier, qadv.QuantizedClassifier):
            super().__init__(classifier, **options)
        else:
            Trainer.__init__(self, classifier)


@TRAINERS.breaks("bad-input", "as if nothing was wrong")
class DropsImages(LoopTrainer):
    def fit(self, x, y, validation_data=None, batch_size=128, nb_epochs=20, **kwargs):
        super().fit(x[: len(y)], y, batch_size=batch_size, nb_epochs=nb_epochs)


test_trainer_caught = TRAINERS.test()
test_all_trainer_checks_have_an_offender = TRAINERS.test_all_checks_have_one()

TRANSFORMERS = Offenders("transformer", factor=2.0)


class Scales(NetworkTransformer):
    """Multiplies the last layer by a factor."""

    params = ["factor"]

    def __init__(self, classifier, factor=2.0):
        super().__init__(classifier)
        self.factor = factor
        self._check_params()

    def _network(self, classifier, x):
        model = copy.deepcopy(classifier.model)
        with torch.no_grad():
            list(model.parameters())[-1].add_(self.factor)
        return model

    def _check_params(self):
        if not 0 < self.factor < np.inf:
            raise ValueError(f"factor: expected a number above 0, got {self.factor}")


test_sound_transformer = conformance("transformer", Scales, factor=2.0)


@TRANSFORMERS.breaks("contract", "NoTransformer")
class NoTransformer:
    def __init__(self, classifier, factor):
        pass


@TRANSFORMERS.breaks("contract", "Logits")
class ReturnsTheNetwork(Scales):
    def __call__(self, x=None, transformed_classifier=None):
        return super().__call__(x, transformed_classifier)._model


@TRANSFORMERS.breaks("contract", "None")
class LosesClipValues(Scales):
    def __call__(self, x=None, transformed_classifier=None):
        made = super().__call__(x, transformed_classifier)
        made._clip_values = None
        return made


@TRANSFORMERS.breaks("original-untouched", "the classifier")
class ChangesTheOriginal(Scales):
    def _network(self, classifier, x):
        with torch.no_grad():
            list(self.classifier.model.parameters())[-1].add_(1.0)
        return super()._network(classifier, x)


@TRANSFORMERS.breaks("changes", "the same")
class Idle(Scales):
    def _network(self, classifier, x):
        return copy.deepcopy(classifier.model)


@TRANSFORMERS.breaks("attacked-afterwards", "zero for 100%")
class Masks(Scales):
    def _network(self, classifier, x):
        model = super()._network(classifier, x)
        with torch.no_grad():
            next(model.parameters()).zero_()
        return model


@TRANSFORMERS.breaks("save-and-load", "by up to")
class ScalesByAHook(Scales):
    def _network(self, classifier, x):
        model = copy.deepcopy(classifier.model)
        model.register_forward_hook(lambda module, inputs, output: self.factor * output)
        return model


@TRANSFORMERS.breaks("bad-input", "as if nothing was wrong")
class TakesAnything(Scales):
    def __init__(self, classifier, factor=2.0):
        self._classifier, self.factor = classifier, factor


test_transformer_caught = TRANSFORMERS.test()
test_all_transformer_checks_have_an_offender = TRANSFORMERS.test_all_checks_have_one()

PREPROCESSORS = Offenders("preprocessor")


class Darkens(PreprocessorPyTorch):
    """Squares the pixels."""

    def __init__(self):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=True, apply_predict=True)

    def forward(self, x, y=None):
        return x**2, y

    def __repr__(self):
        return "Darkens()"


test_sound_preprocessor = conformance("preprocessor", Darkens)


@PREPROCESSORS.breaks("contract", "ndarray")
class ReturnsImagesOnly(Darkens):
    def __call__(self, x, y=None):
        return super().__call__(x, y)[0]


@PREPROCESSORS.breaks("contract", "y ")
class ChangesLabels(Darkens):
    def __call__(self, x, y=None):
        return super().__call__(x)[0], None if y is None else y + 1


@PREPROCESSORS.breaks("shape-and-dtype", "float64")
class Doubles(Darkens):
    def __call__(self, x, y=None):
        return x.astype(np.float64) ** 2, y


@PREPROCESSORS.breaks("shape-and-dtype", "differences of up to")
class LooksAtTheBatch(Darkens):
    def forward(self, x, y=None):
        return (x**2) / (1 + x.mean()), y


@PREPROCESSORS.breaks("shape-and-dtype", "NaN or infinity")
class DividesByZero(Darkens):
    def forward(self, x, y=None):
        return x / x, y


@PREPROCESSORS.breaks("range-of-pixels", "-1 to 1")
class Standardises(Darkens):
    def forward(self, x, y=None):
        return 2 * x - 1, y


@PREPROCESSORS.breaks("tensors", "others")
class HasTwoWays(Darkens):
    def __call__(self, x, y=None):
        return x**3, y


@PREPROCESSORS.breaks("gradient", "slopes differ")
class WrongBackward(Darkens):
    def forward(self, x, y=None):
        return (x**2).detach() + x - x.detach(), y


@PREPROCESSORS.breaks("gradient", "as far as autograd knows")
class Detaches(Darkens):
    def forward(self, x, y=None):
        return (x**2).detach(), y


@PREPROCESSORS.breaks("gradient-not-masked", "zero")
class RoundsWithoutEstimator(Darkens):
    def forward(self, x, y=None):
        return (7 * x).round() / 7, y


@PREPROCESSORS.breaks("in-a-classifier", "zero for 100%")
class RoundsInAClassifier(RoundsWithoutEstimator):
    pass


@PREPROCESSORS.breaks("pickling", "lambda")
class HoldsALambda(Darkens):
    def __init__(self):
        super().__init__()
        self.curve = lambda x: x**2


test_preprocessor_caught = PREPROCESSORS.test()
test_all_preprocessor_checks_have_an_offender = PREPROCESSORS.test_all_checks_have_one()

POSTPROCESSORS = Offenders("postprocessor")


class Halves(Postprocessor):
    """Half the logits."""

    def __init__(self):
        super().__init__(is_fitted=True, apply_fit=False, apply_predict=True)

    def __call__(self, preds):
        return preds / np.float32(2)

    def __repr__(self):
        return "Halves()"


test_sound_postprocessor = conformance("postprocessor", Halves)


@POSTPROCESSORS.breaks("contract", "NoPostprocessor")
class NoPostprocessor:
    def __call__(self, preds):
        return preds


@POSTPROCESSORS.breaks("shape-and-dtype", "(6,)")
class ReturnsClasses(Halves):
    def __call__(self, preds):
        return preds.argmax(1).astype(np.float32)


@POSTPROCESSORS.breaks("shape-and-dtype", "NaN or infinity")
class Overflows(Halves):
    def __call__(self, preds):
        with np.errstate(all="ignore"):
            return np.exp(preds) / np.exp(preds).sum(axis=1, keepdims=True)


@POSTPROCESSORS.breaks("shape-and-dtype", "others")
class LooksAtTheBatchToo(Halves):
    def __call__(self, preds):
        return preds / np.abs(preds).max()


@POSTPROCESSORS.breaks("in-a-classifier", "float64")
class DoublesMany(Halves):
    def __call__(self, preds):
        return preds.astype(np.float64)


@POSTPROCESSORS.breaks("pickling", "lambda")
class HoldsALambdaToo(Halves):
    def __init__(self):
        super().__init__()
        self.curve = lambda x: x


test_postprocessor_caught = POSTPROCESSORS.test()
test_all_postprocessor_checks_have_an_offender = POSTPROCESSORS.test_all_checks_have_one()

DETECTORS = Offenders("detector", threshold=0.5)


class Unsure(EvasionDetector):
    """Flags what the classifier is not sure of."""

    defence_params = ["classifier", "threshold"]

    def __init__(self, classifier, threshold=0.5):
        super().__init__()
        self.classifier = classifier
        self.threshold = threshold
        self._check_params()

    def fit(self, x, y, batch_size=128, nb_epochs=20, **kwargs):
        pass

    def detect(self, x, batch_size=128, **kwargs):
        check_images(x, self.classifier.input_shape, self.classifier.clip_values)
        scores = np.concatenate([self.scores(x[i : i + batch_size]) for i in range(0, len(x), batch_size)])
        return {"scores": scores}, scores < self.threshold

    def scores(self, x):
        return torch.from_numpy(self.classifier.predict(x)).softmax(1).amax(1).numpy()

    def _check_params(self):
        if not hasattr(self.classifier, "predict") or not 0 < self.threshold < 1:
            raise ValueError("expected a classifier and a threshold from 0 to 1")

    def __repr__(self):
        return f"{type(self).__name__}(threshold={self.threshold})"


test_sound_detector = conformance("detector", Unsure, threshold=0.9, classifier=digits_classifier)


@DETECTORS.breaks("contract", "NoDetector")
class NoDetector:
    def __init__(self, classifier, threshold):
        pass

    def fit(self, x, y, batch_size=128, nb_epochs=20, **kwargs):
        pass


@DETECTORS.breaks("contract", "float32")
class ReturnsScores(Unsure):
    def detect(self, x, batch_size=128, **kwargs):
        return {}, self.scores(x)


@DETECTORS.breaks("contract", "tuple")
class ReturnsTheReportLast(Unsure):
    def detect(self, x, batch_size=128, **kwargs):
        report, flagged = super().detect(x)
        return (flagged, report), flagged


@DETECTORS.breaks("batches", "differs")
class FlagsTheWorstOfABatch(Unsure):
    def detect(self, x, batch_size=128, **kwargs):
        parts = [self.scores(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
        return {}, np.concatenate([part == part.min() for part in parts])


@DETECTORS.breaks("bad-input", "as if nothing was wrong")
class TakesNoClassifier(Unsure):
    def _check_params(self):
        pass


@DETECTORS.breaks("bad-input", "as if nothing was wrong")
class TakesNaN(Unsure):
    def scores(self, x):
        return super().scores(np.nan_to_num(x))

    def detect(self, x, batch_size=128, **kwargs):
        scores = self.scores(x)
        return {}, scores < self.threshold


test_detector_caught = DETECTORS.test()
test_all_detector_checks_have_an_offender = DETECTORS.test_all_checks_have_one()
