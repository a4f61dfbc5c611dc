"""Options are kept where the answers stay, left off with a warning where they don't, and the original is untouched."""

import copy

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool, ProjectedGradientDescent, SimBA
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.estimators.answers import Answers, compared, errors
from qadv.quantization.form import FormOptions


@pytest.fixture(scope="module")
def accelerated(trained, digits):
    return qadv.accelerate(trained, digits.x_test[:64], share=0.9)


def test_answers_are_those_of_the_network_and_the_checks_say_so(trained, accelerated, digits):
    kept, folded, channels_last = accelerated.checks
    assert (kept.option, folded.option, channels_last.option) == ("kept_weights", "fold_batch_norm", "channels_last")
    assert kept.logits_error == kept.gradient_error == 0
    assert folded.gradient_error > 0, "other arithmetic"
    assert all(check.kept and check.changed == 0 and check.images == 64 for check in accelerated.checks)
    assert accelerated.model.form_options == FormOptions(fold_batch_norm=True, channels_last=True)
    x, y = digits.x_test[:64], digits.y_test[:64]
    for found, expected in (
        (accelerated.predict(x), trained.predict(x)),
        (accelerated.loss_gradient(x, y), trained.loss_gradient(x, y)),
        (accelerated.class_gradient(x), trained.class_gradient(x)),
    ):
        off = np.abs(found - expected).reshape(64, -1).max(1) > 1e-4 * np.abs(expected).reshape(64, -1).max(1)
        assert off.mean() <= 0.1
    for check in accelerated.checks:
        assert check.option in str(accelerated)


def test_the_original_is_untouched_and_does_not_reach_the_copy(make_classifier, digits, tmp_path):
    classifier = make_classifier(fold=False)
    before = copy.deepcopy(classifier.model.state_dict())
    modes = [module.training for module in classifier.model.modules()]
    result = qadv.accelerate(classifier, digits.x_test[:8], share=0.1, bound=1.0)
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())
    assert [module.training for module in classifier.model.modules()] == modes
    assert classifier.model.form_options == FormOptions()
    logits = result.predict(digits.x_test[:8])
    nn.init.zeros_(classifier.model[0].weight)
    np.testing.assert_array_equal(result.predict(digits.x_test[:8]), logits)
    result.save(tmp_path / "net.safetensors")
    loaded = qadv.QuantizedClassifier.load(tmp_path / "net.safetensors")
    assert loaded.model.form_options == result.model.form_options
    np.testing.assert_array_equal(loaded.predict(digits.x_test[:8]), logits)


def test_attacks_take_it_and_a_plain_classifier_rebuilt_from_its_model(accelerated, digits):
    x, y = digits.x_test[:16], digits.y_test[:16]
    plain = PyTorchClassifier(
        accelerated.model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), preprocessing=None
    )
    np.testing.assert_array_equal(plain.predict(x), accelerated.predict(x))
    np.testing.assert_array_equal(plain.predict(x.astype(np.float64)), accelerated.predict(x))
    one_hot = np.eye(10, dtype=np.float32)[y]
    np.testing.assert_array_equal(plain.loss_gradient(x, one_hot), accelerated.loss_gradient(x, one_hot))
    found = []
    for classifier in (accelerated, plain):
        attack = ProjectedGradientDescent(classifier, eps=0.3, eps_step=0.05, max_iter=10, verbose=False)
        found.append(attack.generate(x, one_hot))
    np.testing.assert_array_equal(*found)
    assert (accelerated.predict(found[0]).argmax(1) != y).mean() > 0.5
    DeepFool(accelerated, max_iter=3, verbose=False).generate(x[:2])
    inner = SimBA(_with_probabilities(accelerated), max_iter=5, verbose=False)
    qadv.QueryCoalescer(inner, seed=0, verbose=False).generate(x[:2], one_hot[:2])


def _with_probabilities(classifier):
    return qadv.QuantizedClassifier(classifier.model, classifier.loss, (1, 8, 8), 10, probabilities=True)


def test_an_option_is_left_off_under_a_strict_bound_with_a_warning(make_classifier, digits):
    classifier, x = make_classifier(), digits.x_test[:16]  # not trained: some activations lie on a threshold
    with pytest.warns(UserWarning, match=r"fold_batch_norm is left off: \d+ of 16 .* errors are .*classes changed"):
        strict = qadv.accelerate(classifier, x, channels_last=False, bound=0.0)
    assert not strict.checks[-1].kept
    assert strict.model.form_options == FormOptions()
    raw = qadv.QuantizedClassifier(classifier.model, classifier.loss, (1, 8, 8), 10, fold=False)
    np.testing.assert_array_equal(strict.predict(x), raw.predict(x))


class Stepped(nn.Module):
    """Logits (s, 2s, 0) with s the sum of an image; `step` is added to the first where the sum is above `threshold`."""

    def __init__(self, step=0.0, threshold=0.0):
        super().__init__()
        self.step = step
        self.threshold = threshold

    def forward(self, x):
        s = x.sum(dim=1)
        return torch.stack([s + self.step * (s > self.threshold), 2 * s, 0 * s], dim=1)


def test_what_is_compared():
    batches = torch.split(torch.tensor([[0.5], [1.0], [2.0], [4.0]]), 3)
    original = Stepped()
    expected = Answers.of(original, batches)
    assert expected.classes.tolist() == [0, 0, 0, 0]  # the second most likely
    # cross-entropy towards class 0: derivative of logsumexp(s, 2s, 0) - s
    s = np.array([0.5, 1, 2, 4])
    slope = (np.exp(s) + 2 * np.exp(2 * s)) / (np.exp(s) + np.exp(2 * s) + 1) - 1
    np.testing.assert_allclose(expected.gradients[:, 0], slope, rtol=1e-5)
    check = compared("step", Stepped(8.0, 3.0), original, batches, expected, bound=1e-4, share=0.75)
    assert (check.equal, check.images, check.changed, check.kept) == (3, 4, 1, True)  # s = 4: (12, 8, 0)
    assert check.logits_error == pytest.approx(8 / 8)
    assert not compared("step", Stepped(8.0, 3.0), original, batches, expected, bound=1e-4, share=0.76).kept
    check = compared("step", Stepped(1.0, 1.5), original, batches, expected, bound=1e-4, share=1)
    assert (check.equal, check.changed, check.kept) == (2, 0, False)
    assert check.logits_error == pytest.approx(1 / 4)
    assert compared("step", Stepped(1.0, 1.5), original, batches, expected, bound=2.0, share=1).kept
    assert compared("none", original, original, batches, expected, bound=0.0, share=1).kept


def test_errors_of_gradients_that_are_zero_or_not_finite():
    found = torch.tensor([[0.0, 0.0], [0.0, 1.0], [torch.nan, 1.0], [torch.inf, 1.0], [1.1, -2.0]])
    expected = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [torch.inf, 1.0], [1.0, -2.0]])
    result = errors(found, expected)
    assert result[0] == 0
    assert result[1:4].isinf().all()
    assert result[4] == pytest.approx(0.05)


@pytest.fixture
def small(make_classifier):
    return make_classifier(width=2, preprocessing=(0.3, 0.4))


def test_float_and_frozen_networks(make_classifier, digits, tmp_path):
    x = digits.x_test[:4]
    for classifier in (make_classifier("float", "float"), _frozen(make_classifier(), tmp_path)):
        result = qadv.accelerate(classifier, x, bound=1.0)
        assert result.model.form_options.fold_batch_norm
        np.testing.assert_allclose(result.predict(x), classifier.predict(x), atol=1e-5)


def _frozen(classifier, folder):
    qadv.export(classifier, folder / "net.safetensors")
    return qadv.QuantizedClassifier.load(folder / "net.safetensors")


def test_refusals(small, digits):
    x = digits.x_test[:2]
    with pytest.raises(InvalidInputError, match="QuantizedClassifier"):
        qadv.accelerate(small.model, x)
    with pytest.raises(InvalidInputError, match="shape"):
        qadv.accelerate(small, x[:, :, :4])
    for wrong in ({"bound": -1.0}, {"share": 0.0}, {"share": 1.1}, {"batch_size": 0}):
        with pytest.raises(InvalidInputError, match="|".join(wrong)):
            qadv.accelerate(small, x, **wrong)
    linear = qadv.QuantizedClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), nn.CrossEntropyLoss(), (1, 8, 8), 10
    )
    nn.init.constant_(linear.model[1].bias, float("nan"))
    with pytest.raises(UnsupportedModelError, match="not finite"):
        qadv.accelerate(linear, x)
