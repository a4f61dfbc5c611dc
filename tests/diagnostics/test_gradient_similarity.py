"""Cosines of input gradients against those of networks whose gradients are known in closed form."""

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

import qadv
from qadv.diagnostics.gradient_similarity import draw_gradient_similarity
from qadv.errors import AttackError, InvalidInputError


def linear(weight, kind=qadv.QuantizedClassifier, scale=1.0):
    """Logits W x: the gradient of cross-entropy by x is Wᵀ (softmax(W x) - one-hot)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(scale * weight))
    return kind(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0))


def gradients(weight, x, y):
    logits = x.reshape(len(x), -1).astype(np.float64) @ weight.T
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    return (chances - np.eye(10)[y]) @ weight


@pytest.fixture
def weights():
    return np.random.default_rng(0).normal(size=(3, 10, 64)).astype(np.float32) / 8


def test_cosines_are_those_of_the_closed_form(digits, weights):
    x, y = digits.x_test[:20], digits.y_test[:20]
    classifiers = {"a": linear(weights[0]), "b": linear(weights[1]), "art": linear(weights[2], PyTorchClassifier)}
    found = qadv.gradient_similarity(classifiers, x, y, batch_size=7)
    expected = np.ones((3, 3))
    for i, j in np.ndindex(3, 3):
        a, b = (gradients(weights[k].astype(np.float64), x, y) for k in (i, j))
        expected[i, j] = ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()
    np.testing.assert_allclose(found.similarity, expected, atol=1e-5)
    assert abs(found.similarity[0, 1]) < 0.9, "different networks"
    assert found.names == ("a", "b", "art")
    assert (found.counted == 20).all()


def test_opposite_networks_have_minus_one_and_size_does_not_matter(digits, weights):
    x, y = digits.x_test[:12], digits.y_test[:12]

    class Negated(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(1 - x)

    classifier = linear(1e-12 * weights[0])
    opposite = qadv.QuantizedClassifier(Negated(classifier.model), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    found = qadv.gradient_similarity({"tiny": classifier, "opposite": opposite}, x, y)
    np.testing.assert_allclose(found.similarity, [[1, -1], [-1, 1]], atol=1e-6)


def test_images_without_a_gradient_do_not_count(digits, weights):
    x, y = digits.x_test[:10], digits.y_test[:10]
    plain, sure = linear(weights[0]), linear(weights[0], scale=1e6)  # softmax saturates: many gradients are all zero
    found = qadv.gradient_similarity({"plain": plain, "sure": sure}, x, y)
    zero = (gradients(1e6 * weights[0].astype(np.float64), x, y) == 0).all(1).sum()
    assert 0 < zero < 10
    assert found.counted.tolist() == [[10, 10 - zero], [10 - zero, 10 - zero]]
    assert found.zero.tolist() == pytest.approx([0, zero / 10])
    assert -1 <= found.similarity[0, 1] < 1

    none = linear(0 * weights[0])
    found = qadv.gradient_similarity({"plain": plain, "none": none}, x, y)
    assert np.isnan(found.similarity[0, 1])
    assert found.to_dict()["similarity"][1] == [None, None]
    assert draw_gradient_similarity(found).axes[0].texts[1].get_text() == "–"


def test_rounded_activations_turn_the_gradient_and_the_more_the_fewer_levels(trained, digits, make_classifier):
    x, y = digits.x_test[:64], digits.y_test[:64]
    networks = {"trained": trained}
    state = trained.model.state_dict()
    for bits in (8, 4, 2):
        networks[str(bits)] = make_classifier("int:4", f"relu6:{bits}")
        networks[str(bits)].model.load_state_dict(state)
    found = qadv.gradient_similarity(networks, x, y)
    own = dict(zip(found.names, found.similarity[0], strict=True))
    assert own["4"] == pytest.approx(1)
    assert own["8"] > own["2"] + 0.05


def test_labels_may_be_one_hot_and_the_mode_is_kept(digits, make_classifier):
    classifier = make_classifier()
    classifier.model.train()
    x, y = digits.x_test[:4], digits.y_test[:4]
    indices = qadv.gradient_similarity({"a": classifier, "b": make_classifier(seed=1)}, x, y)
    one_hot = qadv.gradient_similarity({"a": classifier, "b": make_classifier(seed=1)}, x, np.eye(10)[y])
    np.testing.assert_array_equal(indices.similarity, one_hot.similarity)
    assert classifier.model.training


def test_what_can_not_be_compared_is_refused(digits, weights, make_classifier):
    x, y = digits.x_test[:2], digits.y_test[:2]
    one = make_classifier()
    with pytest.raises(InvalidInputError, match="by name"):
        qadv.gradient_similarity([one], x, y)
    with pytest.raises(InvalidInputError, match="by name"):
        qadv.gradient_similarity({}, x, y)
    large = make_classifier(input_shape=(1, 12, 12), image_size=12)
    with pytest.raises(InvalidInputError, match="one input_shape for all"):
        qadv.gradient_similarity({"a": one, "b": large}, x, y)
    with pytest.raises(InvalidInputError, match="labels"):
        qadv.gradient_similarity({"a": one}, x, y + 9)
    broken = linear(weights[0])
    with torch.no_grad():
        broken.model[1].weight.fill_(3e38)
    with pytest.raises(AttackError, match="'broken' is not finite"):
        qadv.gradient_similarity({"broken": broken}, x, y)


def test_the_matrix_is_drawn(digits, make_classifier):
    found = qadv.gradient_similarity({"a": make_classifier(), "b": make_classifier(seed=1)}, digits.x_test[:4], [0] * 4)
    figure = draw_gradient_similarity(found)
    assert [text.get_text() for text in figure.axes[0].texts][:2] == ["1.00", f"{found.similarity[0, 1]:.2f}"]
    assert "1" in str(found)
