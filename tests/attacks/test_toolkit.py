"""`ToolkitAttack` and `as_module`: what an attack of another toolkit is given, and what becomes of what it returns."""

import random
import re

import art.defences.preprocessor as art
import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std import StandardisationMeanStd
from torch import nn

import qadv
from qadv.errors import InvalidInputError
from qadv.testing import conformance, digits_classifier
from qadv.testing.compare import difference
from qadv.testing.global_state import random_states, set_random_states


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


@pytest.mark.parametrize("clip_values", [(-1.0, 1.0), (0.0, 255.0), (-0.9, 0.8)])
def test_pixels_in_the_unit_range_are_moved_to_clip_values_and_back(digits, clip_values):
    class Watches(OneStep):
        def perturb(self, model, x, y):
            np.testing.assert_allclose(x, unit, atol=1e-6)
            np.testing.assert_allclose(model(x).detach(), classifier.predict(shifted), rtol=1e-4, atol=1e-4)
            return super().perturb(model, x, y)

    unit, y = digits
    low, high = clip_values
    shifted = (low + (high - low) * unit).astype(np.float32)
    classifier = digits_classifier(clip_values=clip_values, preprocessing=(low, high - low))
    step = np.abs(Watches(classifier, eps=0.1 * (high - low), seed=0).generate(shifted, y) - shifted) / (high - low)
    assert 0.05 < step.max() <= 0.1 + 1e-6
    plain = OneStep(digits_classifier(), seed=0).generate(unit, y)
    np.testing.assert_allclose(step, np.abs(plain - unit), atol=1e-5)


def test_pixels_just_outside_reach_the_toolkit_inside(digits):
    class Watches(OneStep):
        def perturb(self, model, x, y):
            assert (x.min(), x.max()) == (0, 1)
            return x

    x, y = digits
    outside = np.where(x == 0, -5e-7, np.where(x == 1, 1 + 5e-7, x)).astype(np.float32)
    assert outside.min() < 0
    assert outside.max() > 1
    Watches(digits_classifier()).generate(outside, y)


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


def test_weights_that_were_frozen_stay_frozen(digits):
    x, y = digits
    classifier = digits_classifier()
    frozen, *others = classifier.model.parameters()
    frozen.requires_grad_(False)
    OneStep(classifier, seed=0).generate(x, y)
    assert not frozen.requires_grad
    assert all(p.requires_grad for p in others)


def test_without_labels_the_predictions_take_their_place(digits):
    class Watches(OneStep):
        def perturb(self, model, x, y):
            seen.append(y.numpy())
            return super().perturb(model, x, y)

    x, _ = digits
    seen = []
    classifier = digits_classifier()
    attack = Watches(classifier, seed=0, batch_size=8)
    made = attack.generate(x)
    predicted = classifier.predict(x).argmax(1)
    assert (np.concatenate(seen) == predicted).all()
    assert (made == attack.generate(x, predicted)).all()


def test_all_global_states_are_seeded_for_the_toolkit_and_are_afterwards_as_before(digits):
    class Draws(OneStep):
        def perturb(self, model, x, y):
            drawn.append((np.random.rand(), random.random(), torch.rand(1).item()))
            return x

    x, y = digits
    drawn = []
    set_random_states(1)
    before = random_states()
    attack = Draws(digits_classifier(), seed=3)
    attack.generate(x, y)
    assert difference(before, random_states()) is None
    set_random_states(2)
    attack.generate(x, y)
    assert drawn[0] == drawn[1]
    attack.set_params(seed=4)
    attack.generate(x, y)
    assert all(one != other for one, other in zip(drawn[1], drawn[2], strict=True))


def test_what_a_toolkit_returns_may_have_a_gradient_and_another_type(digits):
    class Half(OneStep):
        def perturb(self, model, x, y):
            return (x.clone().requires_grad_() / 2).bfloat16()

    x, y = digits
    made = Half(digits_classifier()).generate(x, y)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, x / 2, rtol=0.01)


def test_images_labels_and_arguments_are_checked_as_those_of_qadvs_own_attacks(digits):
    x, y = digits
    before = x.copy()
    attack = OneStep(digits_classifier())
    assert attack.generate(x.astype(np.float64), y).dtype == np.float32
    assert (attack.generate(x, y) != before).any()
    assert (x == before).all()
    for bad_x, bad_y, more, said in (
        (x * 255, y, {}, "divide by 255"),
        (x, y + 10, {}, "expected 12 labels from 0 to 9"),
        (x, y, {"mask": 1, "steps": 2}, "OneStep.generate takes x and y; got also mask, steps"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            attack.generate(bad_x, bad_y, **more)
    with pytest.raises(InvalidInputError, match="a targeted OneStep needs the target classes"):
        OneStep(digits_classifier(), targeted=True).generate(x)


def test_without_a_seed_numpys_decides(digits):
    x, y = digits
    attack = OneStep(digits_classifier())
    made = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        made.append(attack.generate(x, y))
    assert (made[0] == made[1]).all()
    assert (made[1] != made[2]).any()


def test_progress_is_shown_when_asked_for(digits, capfd):
    x, y = digits
    OneStep(digits_classifier(), batch_size=8, verbose=False).generate(x, y)
    assert capfd.readouterr().err == ""
    OneStep(digits_classifier(), batch_size=8, verbose=True).generate(x, y)
    assert re.search("OneStep: 100%.* 12/12", capfd.readouterr().err)


def test_images_that_a_toolkit_leaves_alone_come_back_to_the_bit(digits):
    class Idle(OneStep):
        def perturb(self, model, x, y):
            return x.clone()

    x, y = digits
    shifted = np.random.default_rng(0).uniform(-0.9, 0.8, x.shape).astype(np.float32)
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
    standardised = PyTorchClassifier(*arguments, clip_values=(0, 1), preprocessing=StandardisationMeanStd(0.3, 0.7))
    with pytest.raises(InvalidInputError, match=r"\(StandardisationMeanStd\).*PyTorch version"):
        qadv.as_module(standardised)
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
