"""Transfer from each network to each, on networks and attacks whose effect is known."""

import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.attacks.evasion import FastGradientMethod
from torch import nn

import qadv
from qadv.backbones.standardisation import keep_picture_settings
from qadv.diagnostics.transfer_matrix import draw_transfer_matrix
from qadv.errors import InvalidInputError


def brightness(threshold):
    """Class 1 where the first pixel is brighter than the threshold, else class 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, 0]]))
        model[1].bias.copy_(torch.tensor([0.0, -threshold]))
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), 2)


class Brighten(EvasionAttack):
    """Puts the first pixel just above the source's threshold; counts how often it runs."""

    _estimator_requirements = ()
    runs = 0

    def __init__(self, estimator):
        super().__init__(estimator=estimator)

    def generate(self, x, y=None, **kwargs):
        type(self).runs += 1
        assert y.shape == (len(x), 2)
        moved = x.copy()
        moved[:, 0, 0, 0] = np.maximum(x[:, 0, 0, 0], 0.02 - self.estimator.model[1].bias[1].item())
        return moved


class Nothing(Brighten):
    def generate(self, x, y=None, **kwargs):
        return x


def images(*first):
    x = np.zeros((len(first), 1, 2, 2), dtype=np.float32)
    x[:, 0, 0, 0] = first
    return x


@pytest.fixture(autouse=True)
def _no_runs_yet():
    Brighten.runs = 0


X, Y = images(0.1, 0.3, 0.55, 0.9), np.array([0, 0, 0, 1])


def test_every_source_goes_to_every_target_with_the_distances_of_its_successes():
    networks = {"low": brightness(0.4), "high": brightness(0.6)}
    found = qadv.transfer_matrix(networks, X, Y, {"brighten": Brighten, "nothing": Nothing})
    assert Brighten.runs == 2, "once per source"
    assert (found.attacks, found.sources, found.targets) == (("brighten", "nothing"), ("low", "high"), ("low", "high"))
    np.testing.assert_allclose(found.clean, [0.75, 1])
    # made on "low" images become 0.42: over its threshold, not over the other; 0.55 was wrong at "low" before
    np.testing.assert_allclose(found.accuracy[0], [[0.25, 1], [0.25, 0.25]])
    np.testing.assert_allclose(found.success_rate[0], [[2 / 3, 0], [2 / 3, 3 / 4]])
    low, high = np.array([0.42 - 0.1, 0.42 - 0.3]), np.array([0.62 - 0.1, 0.62 - 0.3, 0.62 - 0.55])
    np.testing.assert_allclose(found.l2[0], [[low.mean(), np.nan], [high[:2].mean(), high.mean()]], rtol=1e-5)
    np.testing.assert_allclose(found.linf[0], found.l2[0], rtol=1e-5)  # one pixel
    np.testing.assert_allclose(found.accuracy[1], [[0.75, 1], [0.75, 1]])
    np.testing.assert_allclose(found.worst_case, [0.25, 0.25])
    assert found.to_dict()["l2"][0][0][1] is None
    assert "25.0% / 0.22 / 0.22" in str(found)


def test_the_worst_case_is_taken_image_by_image():
    """Each attack alone leaves half of the images, both together none."""

    def on(chosen):
        class Some(Brighten):
            def generate(self, x, y=None, **kwargs):
                moved = super().generate(x, y)
                return np.where(np.isin(np.arange(len(x)), chosen)[:, None, None, None], moved, x)

        return Some

    found = qadv.transfer_matrix({"a": brightness(0.6)}, X[:2], Y[:2], {"first": on([0]), "second": on([1])})
    np.testing.assert_allclose(found.accuracy.ravel(), [0.5, 0.5])
    assert found.worst_case.tolist() == [0]


def test_a_second_copy_attacks_the_network_itself_and_nobody_else():
    networks = {"low": brightness(0.4), "high": brightness(0.6)}
    found = qadv.transfer_matrix(networks, X, Y, {"brighten": Brighten}, copies={"high": brightness(0.35)})
    assert Brighten.runs == 3
    assert found.copied == ("high",)
    # the copy's images (0.37) do not reach the threshold 0.6, those of "high" itself still go to "low"
    np.testing.assert_allclose(found.accuracy[0], [[0.25, 1], [0.25, 1]])
    assert "high: attacked from a second copy" in str(found)
    texts = [text.get_text() for text in draw_transfer_matrix(found).axes[0].texts]
    assert texts[:6] == ["75", "100", "25", "100", "25", "100*"]


@pytest.mark.parametrize("copied", ["the same", "equal"])
def test_a_copy_has_other_weights_than_the_network_itself(copied):
    networks = {"low": brightness(0.4), "high": brightness(0.6)}
    copy = networks["high"] if copied == "the same" else brightness(0.6)
    with pytest.raises(InvalidInputError, match="copies: 'high' has the same weights as the network itself"):
        qadv.transfer_matrix(networks, X, Y, {"brighten": Brighten}, copies={"high": copy})
    assert Brighten.runs == 0


def test_sources_may_be_fewer_than_targets():
    networks = {"low": brightness(0.4), "high": brightness(0.6)}
    found = qadv.transfer_matrix(networks, X, Y, {"brighten": Brighten}, sources=["high"])
    assert found.accuracy.shape == (1, 1, 2)
    np.testing.assert_allclose(found.accuracy[0, 0], [0.25, 0.25])


def test_art_attacks_on_trained_networks_transfer_less_than_they_break(trained, digits, make_classifier):
    other = make_classifier("float", "float", seed=1)
    trainer = qadv.DefensiveQuantTrainer(other, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=3, batch_size=64)
    x, y = digits.x_test[:100], digits.y_test[:100]
    attacks = {"FGSM": lambda c: FastGradientMethod(c, eps=0.15)}
    one, two = (qadv.transfer_matrix({"4 bit": trained, "float": other}, x, y, attacks, seed=1) for _ in range(2))
    assert one.to_dict() == two.to_dict()
    (matrix,) = one.accuracy
    assert matrix[0, 0] < matrix[1, 0] - 0.05
    assert matrix[1, 1] < matrix[0, 1] - 0.05
    assert (one.linf <= 0.15 + 1e-6).all()
    assert (one.worst_case <= one.accuracy.min(axis=(0, 1)) + 1e-9).all()


def test_an_abstaining_ensemble_is_a_target_with_one_class_more(digits, make_classifier):
    members = [make_classifier(seed=seed) for seed in (0, 1)]
    ensemble = qadv.EnsembleClassifier.of(members, "vote", abstain_below=2)
    x, y = digits.x_test[:6], digits.y_test[:6]
    found = qadv.transfer_matrix(
        {"a": members[0], "both": ensemble}, x, y, {"FGSM": lambda c: FastGradientMethod(c, eps=0.1)}, sources=["a"]
    )
    both = (ensemble.member_predictions(x) == y).all(0)
    assert found.clean[1] == both.mean()


def test_wrong_arguments_are_refused():
    networks = {"low": brightness(0.4)}
    with pytest.raises(InvalidInputError, match="'lwo' is none of the classifiers; did you mean low"):
        qadv.transfer_matrix(networks, X, Y, {"a": Brighten}, sources=["lwo"])
    with pytest.raises(InvalidInputError, match="none of the classifiers"):
        qadv.transfer_matrix(networks, X, Y, {"a": Brighten}, copies={"other": brightness(0.5)})
    with pytest.raises(InvalidInputError, match="attacks by name"):
        qadv.transfer_matrix(networks, X, Y, {})
    with pytest.raises(InvalidInputError, match="returns an ART attack, got int"):
        qadv.transfer_matrix(networks, X, Y, {"a": lambda classifier: 3})
    with pytest.raises(InvalidInputError, match="0 to 1"):
        qadv.transfer_matrix(networks, X * 255, Y, {"a": Brighten})

    class Half(Brighten):
        def generate(self, x, y=None, **kwargs):
            return x[:2]

    with pytest.raises(InvalidInputError, match="attack 'half'"):
        qadv.transfer_matrix(networks, X, Y, {"half": Half})


def test_networks_whose_classes_have_another_order_are_refused():
    one, other = brightness(0.4), brightness(0.6)
    for classifier, classes in ((one, ["cat", "dog"]), (other, ["dog", "cat"])):
        keep_picture_settings(classifier.network, {"classes": classes})
    for ask in (
        lambda: qadv.transfer_matrix({"one": one, "other": other}, X, Y, {"brighten": Brighten}),
        lambda: qadv.audit(one, X, Y, eps=0.1, others=[other], verbose=False),
        lambda: qadv.extraction(one, X, Y, untrained=other),
    ):
        with pytest.raises(InvalidInputError, match="its classes are dog, cat, and the first network's cat, dog"):
            ask()


def test_one_attack_or_all_are_drawn():
    found = qadv.transfer_matrix({"low": brightness(0.4)}, X, Y, {"brighten": Brighten, "nothing": Nothing})
    figure = draw_transfer_matrix(found)
    assert len(figure.axes) == 2
    axes = figure.add_subplot()
    assert draw_transfer_matrix(found, "nothing", axes) is figure
    assert [text.get_text() for text in axes.texts] == ["75", "75"]
    with pytest.raises(InvalidInputError, match="ax"):
        draw_transfer_matrix(found, ax=axes)
    with pytest.raises(InvalidInputError, match="expected one of brighten, nothing"):
        draw_transfer_matrix(found, "FGSM")
