"""`ToolkitAttack` and `as_module`: what an attack of another toolkit is given, and what becomes of what it returns."""

import art.defences.preprocessor as art
import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import conformance, digits_classifier


class OneStep(qadv.ToolkitAttack):
    """FGSM with a coin for each image, as a toolkit would write it."""

    attack_params = [*qadv.ToolkitAttack.attack_params, "eps"]
    _draws = 0

    def __init__(self, estimator, eps=0.1, targeted=False, batch_size=128, seed=None, verbose=False):
        super().__init__(estimator, targeted, batch_size, seed, verbose)
        self.eps = eps
        self._check_params()

    def perturb(self, model, x, y):
        x = x.clone().requires_grad_()
        nn.functional.cross_entropy(model(x), y).backward()
        coins = torch.rand(len(x), 1, 1, 1) * 0.5 + 0.5
        step = self.in_unit_range(self.eps) * coins * x.grad.sign()
        return (x - step if self.targeted else x + step).detach()

    def _check_params(self):
        super()._check_params()
        if not isinstance(self.eps, float) or not 0 < self.eps < np.inf:
            raise InvalidInputError(f"eps: expected a number above 0, got {self.eps!r}")


test_conformance = conformance("attack", OneStep, eps=0.1)


@pytest.fixture(scope="module")
def digits():
    data = qadv.create("dataset", "digits")
    return data.x_test[:12], data.y_test[:12]


def by_hand(classifier, x, y, seed, start=0):
    """One step with ART's gradient and the same coins."""
    torch.manual_seed(int(np.random.SeedSequence([seed, start]).generate_state(3)[2]))
    coins = (torch.rand(len(x), 1, 1, 1) * 0.5 + 0.5).numpy()
    return np.clip(x + 0.1 * coins * np.sign(classifier.loss_gradient(x, y)), *classifier.clip_values)


def test_the_toolkit_sees_arts_gradient_and_a_seed_of_its_own_for_each_batch(digits):
    x, y = digits
    classifier = digits_classifier()
    made = OneStep(classifier, seed=3, batch_size=8).generate(x, y)
    expected = [by_hand(classifier, x[:8], y[:8], 3, 0), by_hand(classifier, x[8:], y[8:], 3, 8)]
    np.testing.assert_allclose(made, np.concatenate(expected), atol=1e-6)


def test_preprocessing_and_defences_are_inside_the_module(digits):
    x, y = digits
    plain = digits_classifier()
    classifier = qadv.QuantizedClassifier(
        plain.model,
        nn.CrossEntropyLoss(),
        plain.input_shape,
        10,
        preprocessing=(0.3, 0.7),
        preprocessing_defences=[qadv.BitDepthReduction(3)],
    )
    module = qadv.as_module(classifier)
    images = torch.from_numpy(x).requires_grad_()
    logits = module(images)
    np.testing.assert_allclose(logits.detach().numpy(), classifier.predict(x), atol=1e-5)
    assert np.abs(classifier.predict(x) - plain.predict(x)).max() > 0.1  # they are there, then
    nn.functional.cross_entropy(logits, torch.from_numpy(y)).backward()
    np.testing.assert_allclose(images.grad.numpy() * len(x), classifier.loss_gradient(x, y) * len(x), atol=1e-5)


def test_an_ensemble_is_a_module_too(digits):
    x, _ = digits
    ensemble = qadv.EnsembleClassifier.of([digits_classifier(), digits_classifier("int:2")], combine="logits")
    np.testing.assert_allclose(
        qadv.as_module(ensemble)(torch.from_numpy(x)).detach().numpy(), ensemble.predict(x), atol=1e-5
    )


def test_the_weights_of_arts_own_classifier_get_no_gradients(digits):
    x, y = digits
    network = qadv.create("backbone", "mnist-cnn", nb_classes=10, in_channels=1, image_size=8, width=4)
    classifier = PyTorchClassifier(network, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))
    assert (OneStep(classifier, seed=0).generate(x, y) != x).any()
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_images_that_a_toolkit_leaves_alone_come_back_to_the_bit(digits):
    class Idle(OneStep):
        def perturb(self, model, x, y):
            return x.clone()

    x, y = digits
    shifted = (x * 1.7 - 0.9).astype(np.float32)
    classifier = digits_classifier(clip_values=(-0.9, 0.8))
    assert (Idle(classifier).generate(shifted, y) == shifted).all()


def test_a_network_in_training_mode_is_attacked_in_evaluation_mode_and_left_in_training(digits):
    class Watches(OneStep):
        def perturb(self, model, x, y):
            assert not model.training
            assert not any(part.training for part in model.modules())
            return super().perturb(model, x, y)

    x, y = digits
    classifier = digits_classifier()
    classifier.model.train()
    Watches(classifier, seed=0).generate(x, y)
    assert all(part.training for part in classifier.model.modules())


def test_what_was_found_before_an_interruption_is_kept(digits):
    class Stopped(OneStep):
        def perturb(self, model, x, y):
            self._draws += 1
            if self._draws == 2:
                raise KeyboardInterrupt
            return super().perturb(model, x, y)

    x, y = digits
    attack = Stopped(digits_classifier(), seed=0, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        attack.generate(x, y)
    assert (attack.partial[:8] != x[:8]).any(axis=(1, 2, 3)).all()
    assert (attack.partial[8:] == x[8:]).all()


def test_what_can_not_be_one_module_is_refused_with_a_way_out():
    plain = digits_classifier()
    arguments = (plain.model, nn.CrossEntropyLoss(), plain.input_shape, 10)
    in_numpy = qadv.QuantizedClassifier(
        *arguments, preprocessing_defences=[art.FeatureSqueezing(clip_values=(0, 1), bit_depth=4)]
    )
    with pytest.raises(InvalidInputError, match=r"FeatureSqueezing.*PyTorch version"):
        qadv.as_module(in_numpy)
    with pytest.raises(InvalidInputError, match="clip_values"):
        OneStep(qadv.QuantizedClassifier(*arguments, clip_values=None))
    with pytest.raises(InvalidInputError, match="got Linear"):
        qadv.as_module(nn.Linear(2, 2))


def test_arts_own_attack_and_a_toolkits_agree_without_the_coin(digits):
    class Plain(OneStep):
        def perturb(self, model, x, y):
            x = x.clone().requires_grad_()
            nn.functional.cross_entropy(model(x), y).backward()
            return x.detach() + self.eps * x.grad.sign()

    x, y = digits
    classifier = digits_classifier()
    expected = FastGradientMethod(classifier, eps=0.1).generate(x, y)
    np.testing.assert_allclose(Plain(classifier).generate(x, y), expected, atol=1e-6)
