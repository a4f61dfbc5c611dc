"""μ-law mapping of a classifier's weights."""

import copy

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.preprocessors.bit_depth import BitDepthReduction
from qadv.quantization.frozen import freeze


def definition(w, mu):
    largest = np.abs(w).max()
    return largest * np.sign(w) * np.log1p(mu * np.abs(w) / largest) / np.log1p(mu)


def weights(classifier):
    return {name: value.numpy() for name, value in classifier.model.state_dict().items()}


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("last", {"12.weight"}),
        ("last:1", {"12.weight"}),
        ("last:3", {"4.weight", "9.weight", "12.weight"}),
        ("9", {"9.weight"}),
        (["0", "1?"], {"0.weight", "12.weight"}),
    ],
)
def test_only_the_weights_of_the_chosen_layers_are_mapped(make_classifier, layers, expected):
    classifier = make_classifier("float", "float")
    before = copy.deepcopy(weights(classifier))
    mapped = qadv.MuLawWeightMapping(classifier, mu=10.0, layers=layers)()
    assert changed(before, weights(mapped)) == expected
    for name in expected:
        np.testing.assert_allclose(weights(mapped)[name], definition(before[name], 10.0), rtol=1e-5, atol=1e-8)
    assert changed(before, weights(classifier)) == set(), "the original stays"


def test_the_new_classifier_is_like_the_old_one(make_classifier, digits):
    defence = BitDepthReduction(5)
    classifier = make_classifier(
        "float", "float", preprocessing=(0.3, 0.4), preprocessing_defences=[defence], probabilities=True
    )
    classifier.set_params(optimizer=torch.optim.SGD(classifier.model.parameters(), lr=0.1))
    mapped = qadv.MuLawWeightMapping(classifier, mu=1e-6)()
    assert type(mapped) is qadv.QuantizedClassifier
    assert mapped.preprocessing_defences == [defence]
    assert mapped.preprocessing_defences is not classifier.preprocessing_defences
    assert mapped.probabilities
    assert mapped.optimizer is None, "it would train the old network"
    assert repr(mapped) == repr(classifier)
    x = digits.x_test[:20]
    np.testing.assert_allclose(mapped.predict(x), classifier.predict(x), atol=1e-4)
    np.testing.assert_allclose(
        mapped.loss_gradient(x, digits.y_test[:20]), classifier.loss_gradient(x, digits.y_test[:20]), atol=1e-4
    )


def test_a_plain_art_classifier_stays_one(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))
    mapped = qadv.MuLawWeightMapping(classifier, mu=255.0)()
    assert type(mapped) is PyTorchClassifier
    adversarial = FastGradientMethod(mapped, eps=0.1).generate(digits.x_test[:4])
    assert np.abs(adversarial - digits.x_test[:4]).max() == pytest.approx(0.1, abs=1e-6)


def test_a_given_classifier_is_transformed_in_place_as_by_arts_transformers(make_classifier, digits):
    classifier = make_classifier("float", "float")
    x, y = digits.x_test[:8], digits.y_test[:8]
    expected = qadv.MuLawWeightMapping(classifier, mu=50.0)().predict(x)
    before = classifier.predict(x)
    other = copy.deepcopy(classifier)
    attack = FastGradientMethod(other, eps=0.1)
    assert qadv.MuLawWeightMapping(classifier, mu=50.0)(x, other) is other
    np.testing.assert_array_equal(other.predict(x)[:, 0] != before[:, 0], True)
    np.testing.assert_allclose(other.predict(x), expected, rtol=1e-5)
    np.testing.assert_array_equal(classifier.predict(x), before)
    assert attack.generate(x, y).shape == x.shape


def test_latent_weights_of_a_quantized_classifier_are_mapped(make_classifier, digits):
    torch.manual_seed(0)
    original = make_classifier("float", "float", seed=3)
    for scheme in ("int:3", "pwlq:3"):
        first = qadv.PostTrainingQuantization(original, scheme, "float", skip_first_last=False)()
        then_mapped = qadv.MuLawWeightMapping(first, mu=20.0)()
        mapped_first = qadv.PostTrainingQuantization(
            qadv.MuLawWeightMapping(original, mu=20.0)(), scheme, "float", skip_first_last=False
        )()
        x = digits.x_test[:10]
        np.testing.assert_allclose(then_mapped.predict(x), mapped_first.predict(x), atol=1e-5)
        assert not np.allclose(first.predict(x), then_mapped.predict(x), atol=1e-2)


def test_shared_weights_are_mapped_once():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[3].weight = model[1].weight
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), 4)
    expected = definition(model[1].weight.detach().numpy(), 9.0)
    mapped = qadv.MuLawWeightMapping(classifier, mu=9.0, layers="last:2")()
    np.testing.assert_allclose(mapped.model[1].weight.detach().numpy(), expected, rtol=1e-5)
    assert mapped.model[1].weight is mapped.model[3].weight


def test_images_keep_what_batchnorm_gives(digits, trained_float):
    """A BatchNorm behind a mapped layer gives channels of the mean and deviation that it gave before."""
    x = digits.x_train[:256]

    def moments(classifier):
        given = classifier.get_activations(x, "10")
        return given.mean(0), given.std(0)

    before = moments(trained_float)
    bare = moments(qadv.MuLawWeightMapping(trained_float, mu=100.0, layers="9")())
    kept = moments(qadv.MuLawWeightMapping(trained_float, mu=100.0, layers="9")(x))
    for was, without, now in zip(before, bare, kept, strict=True):
        np.testing.assert_allclose(now, was, atol=2e-2)
        assert np.abs(without - was).max() > 0.5
    alone = qadv.MuLawWeightMapping(trained_float, mu=100.0)
    np.testing.assert_allclose(alone(x).predict(x), alone().predict(x), rtol=1e-3, atol=1e-3)


def test_a_saved_one_is_loaded(trained_float, digits, tmp_path):
    mapped = qadv.MuLawWeightMapping(trained_float, mu=30.0)()
    mapped.save(tmp_path / "mapped.safetensors")
    loaded = qadv.QuantizedClassifier.load(tmp_path / "mapped.safetensors")
    np.testing.assert_array_equal(loaded.predict(digits.x_test[:9]), mapped.predict(digits.x_test[:9]))


def test_what_can_not_be_mapped_is_refused(make_classifier, trained):
    classifier = make_classifier("float", "float")
    for layers in ("last:0", "last:5", "last:x", "last:-1", f"last:{'9' * 5000}"):
        with pytest.raises(InvalidInputError, match="'last:1' to 'last:4'"):
            qadv.MuLawWeightMapping(classifier, layers=layers)
    with pytest.raises(InvalidInputError, match="matches no layer"):
        qadv.MuLawWeightMapping(classifier, layers=["9", "fc"])
    for layers in ([], 3, [3]):
        with pytest.raises(InvalidInputError, match="names or patterns"):
            qadv.MuLawWeightMapping(classifier, layers=layers)
    with pytest.raises(InvalidInputError, match="mu: expected"):
        qadv.MuLawWeightMapping(classifier, mu=0)
    with pytest.raises(InvalidInputError, match="mu: expected"):
        qadv.MuLawWeightMapping(classifier).set_params(mu=-1.0)
    with pytest.raises(InvalidInputError, match="classifier: expected an ART PyTorchClassifier, got AttackedNetwork"):
        qadv.MuLawWeightMapping(classifier.model)
    with pytest.raises(InvalidInputError, match="divide by 255"):
        qadv.MuLawWeightMapping(classifier)(np.full((4, 1, 8, 8), 200.0, np.float32))
    frozen = qadv.QuantizedClassifier(freeze(trained.model), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    with pytest.raises(UnsupportedModelError, match="before it is frozen"):
        qadv.MuLawWeightMapping(frozen)()


def test_weights_that_are_computed_or_not_finite_are_refused(make_classifier):
    classifier = make_classifier("float", "float")
    nn.utils.parametrizations.spectral_norm(classifier.model[12])
    with pytest.raises(UnsupportedModelError, match="12: its weights are computed"):
        qadv.MuLawWeightMapping(classifier)()
    classifier = make_classifier("float", "float")
    with torch.no_grad():
        classifier.model[12].weight[0, 0] = torch.nan
    with pytest.raises(InvalidInputError, match="12: some weights are NaN"):
        qadv.MuLawWeightMapping(classifier)()


def test_a_subclass_with_another_constructor_is_refused(make_classifier):
    class Other(PyTorchClassifier):
        def __init__(self, network):
            super().__init__(network, nn.CrossEntropyLoss(), (1, 8, 8), 10)

    with pytest.raises(InvalidInputError, match="a Other can't be made again"):
        qadv.MuLawWeightMapping(Other(make_classifier("float", "float").model))()
