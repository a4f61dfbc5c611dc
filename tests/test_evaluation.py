"""What an attack did, measured on an attack whose effect is known."""

import numpy as np
import pytest
from art.attacks import EvasionAttack
from art.attacks.evasion import SaliencyMapMethod

import qadv
from qadv.errors import InvalidInputError
from qadv.evaluation import attack_classifier


class Replace(EvasionAttack):
    """Turns chosen images into other ones."""

    _estimator_requirements = ()

    def __init__(self, estimator, images):
        super().__init__(estimator=estimator)
        self.images = images

    def generate(self, x, y=None, **kwargs):
        assert y.shape == (len(x), 10)
        return self.images


def test_figures_are_of_the_images_that_the_attack_broke(trained, digits):
    right = trained.predict(digits.x_test).argmax(1) == digits.y_test
    x, y = digits.x_test[right][:4], digits.y_test[right][:4].copy()
    other = next(
        image for image, label in zip(digits.x_test[right], digits.y_test[right], strict=True) if label not in y[:2]
    )
    y[3] = (y[3] + 1) % 10  # wrong already: neither a success nor a distance
    adversarial = x.copy()
    adversarial[0] = other
    adversarial[3] = 0
    result, images = attack_classifier("replace", Replace(trained, adversarial), trained, x, y)
    assert (result.samples, result.clean_accuracy) == (4, 0.75)
    assert result.success_rate == pytest.approx(1 / 3)
    assert result.mean_l2 == pytest.approx(np.linalg.norm(other - x[0]))
    assert result.mean_linf == pytest.approx(np.abs(other - x[0]).max())
    np.testing.assert_array_equal(images, adversarial)


def test_without_a_success_there_is_no_distance(trained, digits):
    x, y = digits.x_test[:3], digits.y_test[:3]
    result, _ = attack_classifier("nothing", Replace(trained, x), trained, x, y)
    assert result.mean_l2 is None
    assert result.success_rate == 0


def test_an_attack_whose_labels_are_targets_is_refused(trained, digits):
    """Given true labels it would leave every image as it is, and the network would look robust."""
    attack = SaliencyMapMethod(trained, theta=0.5, gamma=0.5, verbose=False)
    x, y = digits.x_test[:4], digits.y_test[:4]
    for run in (
        lambda: attack_classifier("JSMA", attack, trained, x, y),
        lambda: attack_classifier("JSMA", qadv.QueryCoalescer(attack), trained, x, y),
        lambda: qadv.transfer_matrix({"net": trained}, x, y, {"JSMA": lambda _: attack}),
        lambda: qadv.audit(trained, x, y, eps=0.1, checks=[10], adaptive=attack, verbose=False),
    ):
        with pytest.raises(
            InvalidInputError, match=r"expected an attack with targeted=False, got True; it takes targets"
        ):
            run()
