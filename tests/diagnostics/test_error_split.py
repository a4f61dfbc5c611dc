"""The parts of a layer's error against their definition, in NumPy; and how sure networks are."""

import copy

import numpy as np
import pytest
import torch
from art.defences.postprocessor import ReverseSigmoid
from torch import nn

import qadv
from qadv.diagnostics import draw_error_split
from qadv.diagnostics.error_split import ErrorSplit
from qadv.diagnostics.logit_statistics import LogitStatistics
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.quantization.frozen import freeze


def dense(*sizes):
    torch.manual_seed(0)
    first, middle, last = sizes
    return nn.Sequential(nn.Flatten(), nn.Linear(first, middle), nn.ReLU(), nn.Linear(middle, last))


def wrapped(model):
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 1, 8), 5)


def relative(parts, base):
    norms = [np.linalg.norm(part, axis=1) for part in (*parts, sum(parts))]
    return [np.mean(norm / np.linalg.norm(base, axis=1)) for norm in norms]


def test_it_is_the_definition_and_the_parts_add_up():
    model = dense(8, 6, 5)
    floating = wrapped(copy.deepcopy(model))
    quantized = wrapped(qadv.quantize(model, "int-per-tensor:3", "float", skip_first_last=False))
    random = np.random.default_rng(0)
    x = random.random((7, 1, 1, 8), dtype=np.float32)
    moved = np.clip(x + random.uniform(-0.2, 0.2, x.shape), 0, 1).astype(np.float32)
    split = qadv.error_split(quantized, x, moved, floating, batch_size=3)
    assert split.layers == ("1", "3")

    weights = [floating.model[place].weight.detach().double().numpy() for place in (1, 3)]
    biases = [floating.model[place].bias.detach().double().numpy() for place in (1, 3)]
    steps = [np.abs(w).max() / 3 for w in weights]
    rounded = [step * np.round(w / step) for w, step in zip(weights, steps, strict=True)]
    a, b = x.reshape(7, 8).astype(np.float64), moved.reshape(7, 8).astype(np.float64)
    for layer, (w, q) in enumerate(zip(weights, rounded, strict=True)):
        parts = (b - a) @ w.T, a @ (q - w).T, (b - a) @ (q - w).T
        np.testing.assert_allclose(sum(parts), b @ q.T - a @ w.T, atol=1e-12)
        found = [getattr(split, name)[layer] for name in ("input", "weight", "both", "total")]
        np.testing.assert_allclose(found, relative(parts, a @ w.T), rtol=1e-4)
        a, b = np.maximum(a @ w.T + biases[layer], 0), np.maximum(b @ q.T + biases[layer], 0)


def test_without_a_parent_only_the_attack_changes_what_comes_in(trained, digits):
    x = digits.x_test[:6]
    clean = qadv.error_split(trained, x, x)
    assert len(clean.layers) > 3
    assert not clean.input.any()
    assert not clean.both.any()
    np.testing.assert_allclose(clean.weight, clean.total)
    attacked = qadv.error_split(trained, x, np.clip(x + 0.2 * (x < 0.5), 0, 1))
    np.testing.assert_allclose(attacked.weight, clean.weight, rtol=1e-5)
    assert (attacked.input > 0).all()
    assert (attacked.total <= attacked.input + attacked.weight + attacked.both + 1e-6).all()
    assert ErrorSplit.from_dict(attacked.to_dict()) is not None
    assert draw_error_split(attacked).axes[0].get_ylabel() == "part of ‖Wx‖"


def test_inputs_that_layers_round_themselves_are_rounded():
    """With a parent, rounding activations alone is an error of the input."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Linear(6, 5))
    floating = wrapped(copy.deepcopy(model))
    with pytest.warns(UserWarning, match="come from no ReLU"):
        rounded = wrapped(qadv.quantize(model, "float", "relu6:2", skip_first_last=False))
    x = np.random.default_rng(0).random((4, 1, 1, 8), dtype=np.float32)
    split = qadv.error_split(rounded, x, x, floating)
    assert not split.weight.any()
    assert split.input[1] > 0.01


def test_what_can_not_be_split_is_refused(make_classifier, digits):
    classifier, x = make_classifier(), digits.x_test[:2]
    other = make_classifier("float", "float", width=4)
    with pytest.raises(InvalidInputError, match=r"float_parent: expected a layer '\S+' with weights"):
        qadv.error_split(classifier, x, x, other)
    frozen = qadv.QuantizedClassifier(freeze(classifier.model), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    with pytest.raises(UnsupportedModelError, match="no latent weights"):
        qadv.error_split(frozen, x, x)
    for one, other in ((qadv.error_split(frozen, x, x, classifier), qadv.error_split(classifier, x, x, classifier)),):
        np.testing.assert_allclose(one.total, other.total, atol=1e-6)

    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    twice = wrapped(nn.Sequential(nn.Flatten(), Twice(8, 5)))
    with pytest.raises(UnsupportedModelError, match="layer '1' computes something else"):
        qadv.error_split(twice, np.ones((2, 1, 1, 8), np.float32), np.ones((2, 1, 1, 8), np.float32))


def test_logits_are_described():
    class Given(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :5] * 10

    x = np.random.default_rng(0).random((9, 1, 1, 8), dtype=np.float32)
    y = np.arange(9) % 5
    found = qadv.logit_statistics(wrapped(nn.Sequential(Given(), nn.Identity())), x, y, batch_size=4)
    logits = 10 * x.reshape(9, 8)[:, :5].astype(np.float64)
    sure = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = 9, ((logits - logits.mean(1, keepdims=True)) ** 2).mean(), sure.max(1).mean(), sure[range(9), y].mean()
    np.testing.assert_allclose(
        [found.samples, found.variance, found.confidence, found.true_probability], expected, rtol=1e-5
    )
    assert LogitStatistics.from_dict(found.to_dict()) == found
    assert "true probability" in str(found)


def test_logits_are_measured_where_probabilities_are_answered():
    x, y = np.random.default_rng(0).random((9, 1, 1, 8), dtype=np.float32), np.arange(9) % 5
    model, settings = dense(8, 6, 5), (nn.CrossEntropyLoss(), (1, 1, 8), 5)
    probable = qadv.QuantizedClassifier(model, *settings, probabilities=True)
    assert qadv.logit_statistics(probable, x, y) == qadv.logit_statistics(wrapped(model), x, y)
    disguised = qadv.QuantizedClassifier(model, *settings, postprocessing_defences=ReverseSigmoid())
    with pytest.raises(InvalidInputError, match=r"it has postprocessors \(ReverseSigmoid\); leave them out"):
        qadv.logit_statistics(disguised, x, y)
