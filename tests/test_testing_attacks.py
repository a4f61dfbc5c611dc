"""Attacks that break one rule each are caught."""

import numpy as np
import torch
from art.attacks.attack import Attack, EvasionAttack, ExtractionAttack, InferenceAttack, PoisoningAttack
from art.estimators import BaseEstimator, LossGradientsMixin
from art.estimators.classification import ClassifierMixin
from torch import nn

import qadv
from qadv.estimators.checks import check_images, check_labels
from qadv.testing import conformance
from tests.planted import Offenders


class Sound(EvasionAttack):
    """One signed gradient step."""

    attack_params = [*EvasionAttack.attack_params, "eps", "batch_size"]
    _estimator_requirements = (BaseEstimator, ClassifierMixin, LossGradientsMixin)

    def __init__(self, estimator, eps=0.2, batch_size=32):
        super().__init__(estimator=estimator)
        self.eps = eps
        self.batch_size = batch_size
        self._check_params()

    def generate(self, x, y=None, **kwargs):
        x = check_images(x, self.estimator.input_shape, self.estimator.clip_values)
        labels = self.estimator.predict(x).argmax(1) if y is None else check_labels(y, len(x), 10)
        size = self.batch_size
        return np.concatenate([self.step(x[i : i + size], labels[i : i + size]) for i in range(0, len(x), size)])

    def step(self, x, labels):
        gradient = self.estimator.loss_gradient(x, np.eye(10, dtype=np.float32)[labels])
        return np.clip(x + np.float32(self.eps) * np.sign(gradient), *np.float32(self.estimator.clip_values))

    def _check_params(self):
        if not 0 < self.eps < np.inf:
            raise ValueError(f"eps: expected a number above 0, got {self.eps}")


test_the_sound_one_passes = conformance("attack", Sound, eps=0.2)

OFFENDERS = Offenders("attack", eps=0.2)


@OFFENDERS.breaks("contract", "NoAttack")
class NoAttack:
    def __init__(self, estimator, eps):
        pass


@OFFENDERS.breaks("contract", "TakesAnything, as if nothing was wrong")
class TakesAnything(Sound):
    _estimator_requirements = (object,)


@OFFENDERS.breaks("shape-and-dtype", "float64")
class Doubles(Sound):
    def generate(self, x, y=None, **kwargs):
        return super().generate(x, y).astype(np.float64)


@OFFENDERS.breaks("shape-and-dtype", "(1, 8, 8)")
class SqueezesOneImage(Sound):
    def generate(self, x, y=None, **kwargs):
        return super().generate(x, y).squeeze(0) if len(x) == 1 else super().generate(x, y)


@OFFENDERS.breaks("range-of-pixels", "-1.2")
class DoesNotClip(Sound):
    def step(self, x, labels):
        gradient = self.estimator.loss_gradient(x, np.eye(10, dtype=np.float32)[labels])
        moved = x + np.float32(self.eps) * np.sign(gradient)
        return np.clip(moved, 0, 1) if x.min() >= 0 else moved


@OFFENDERS.breaks("range-of-pixels", "0 to 0.7")
class ClipsToZeroAndOneOnly(Sound):
    def step(self, x, labels):
        gradient = self.estimator.loss_gradient(x, np.eye(10, dtype=np.float32)[labels])
        return np.clip(x + np.float32(self.eps) * np.sign(gradient), 0, 1)


@OFFENDERS.breaks("ball", "0.4")
class TwiceTheBall(Sound):
    def step(self, x, labels):
        return np.clip(x + 2 * (super().step(x, labels) - x), 0, 1)


@OFFENDERS.breaks("changes", "none")
class Idle(Sound):
    def step(self, x, labels):
        return x.copy()


class FirstPixels(nn.Module):
    """Ten pixels are the logits."""

    def forward(self, x):
        return x.flatten(1)[:, :10]


def first_pixels():
    return qadv.QuantizedClassifier(FirstPixels(), nn.CrossEntropyLoss(), (1, 8, 8), 10, device_type="cpu")


@OFFENDERS.breaks("changes", "100%", classifier=first_pixels)
class Helps(Sound):
    def step(self, x, labels):
        made = np.zeros_like(x)
        made.reshape(len(x), -1)[np.arange(len(x)), labels] = 1
        return made


@OFFENDERS.breaks("labels", "differs")
class MisreadsIndices(Sound):
    def generate(self, x, y=None, **kwargs):
        if y is not None and y.ndim == 1:
            y = (y + 1) % 10
        return super().generate(x, y)


@OFFENDERS.breaks("labels", "TypeError")
class NeedsLabels(Sound):
    def generate(self, x, y=None, **kwargs):
        return super().generate(x, y[:])


@OFFENDERS.breaks("estimators", "AttributeError: 'PyTorchClassifier' object has no attribute 'save_nothing'")
class UsesMore(Sound):
    def step(self, x, labels):
        if type(self.estimator).__name__ == "PyTorchClassifier":
            self.estimator.save_nothing()
        return super().step(x, labels)


@OFFENDERS.breaks("estimator-untouched", "the state dict")
class TrainsAlong(Sound):
    def step(self, x, labels):
        next(self.estimator.model.parameters()).data.mul_(0.99)
        return super().step(x, labels)


@OFFENDERS.breaks("estimator-untouched", "others")
class Freezes(Sound):
    def step(self, x, labels):
        self.estimator.model.requires_grad_(False)
        return super().step(x, labels)


@OFFENDERS.breaks("batches", "are not")
class ForgetsTheLastBatch(Sound):
    def generate(self, x, y=None, **kwargs):
        made = super().generate(x, y)
        whole = len(x) // self.batch_size * self.batch_size
        return made if whole == 0 else np.concatenate([made[:whole], x[whole:]])


@OFFENDERS.breaks("copies", "TypeError")
class HoldsAFile(Sound):
    def __init__(self, estimator, eps=0.2, batch_size=32):
        super().__init__(estimator, eps, batch_size)
        self.log = (line for line in ())


@OFFENDERS.breaks("bad-input", "as if nothing was wrong")
class TakesNaN(Sound):
    def generate(self, x, y=None, **kwargs):
        return super().generate(np.nan_to_num(x), y)


@OFFENDERS.breaks("bad-input", "as if nothing was wrong")
class CutsToTheLabels(Sound):
    def generate(self, x, y=None, **kwargs):
        return super().generate(x if y is None else x[: len(y)], y)


class Copies(ExtractionAttack):
    """A sound one: trains the thief on the victim's classes."""

    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(self, estimator):
        super().__init__(estimator=estimator)

    def extract(self, x, y=None, **kwargs):
        x = check_images(x, self.estimator.input_shape, self.estimator.clip_values)
        thief = kwargs["thieved_classifier"]
        thief.fit(x, np.eye(10, dtype=np.float32)[self.estimator.predict(x).argmax(1)], nb_epochs=1)
        return thief


class Infers(InferenceAttack):
    """A sound one: what is classified correctly is a member."""

    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(self, estimator):
        super().__init__(estimator=estimator)

    def infer(self, x, y=None, **kwargs):
        x = check_images(x, self.estimator.input_shape, self.estimator.clip_values)
        return (self.estimator.predict(x).argmax(1) == check_labels(y, len(x), 10)).astype(int)


class Poisons(PoisoningAttack):
    """A sound one: brightens, and says class 0."""

    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(self, estimator):
        super().__init__(classifier=estimator)

    def poison(self, x, y=None, **kwargs):
        x = check_images(x, self.estimator.input_shape, self.estimator.clip_values)
        check_labels(y, len(x), 10)
        return np.clip(x + 0.2, *self.estimator.clip_values), np.zeros(len(x), int)


test_a_sound_extraction_passes = conformance("attack", Copies, exempt={"bad-input": "takes no labels"})
test_a_sound_inference_passes = conformance("attack", Infers)
test_a_sound_poisoning_passes = conformance("attack", Poisons)


@OFFENDERS.breaks("finds", "Sequential", eps=None)
class GivesANetwork(Copies):
    def extract(self, x, y=None, **kwargs):
        return super().extract(x, y, **kwargs).network


@OFFENDERS.breaks("estimator-untouched", "the state dict", eps=None)
class TrainsTheVictim(Copies):
    def extract(self, x, y=None, **kwargs):
        with torch.no_grad():
            next(self.estimator.model.parameters()).add_(1)
        return super().extract(x, y, **kwargs)


@OFFENDERS.breaks("finds", "shape (1,)", eps=None)
class InfersOneThing(Infers):
    def infer(self, x, y=None, **kwargs):
        return super().infer(x, y)[:1]


@OFFENDERS.breaks("finds", "1.2", eps=None)
class PoisonsBeyondWhite(Poisons):
    def poison(self, x, y=None, **kwargs):
        return x + np.float32(0.2), super().poison(x, y)[1]


@OFFENDERS.breaks("contract", "OnlyPoisons", eps=None)
class OnlyPoisons(Attack):
    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    def __init__(self, estimator):
        super().__init__(estimator=estimator)

    def poison(self, x, y=None):
        return x, y


test_caught = OFFENDERS.test()
test_all_checks_have_an_offender = OFFENDERS.test_all_checks_have_one()
