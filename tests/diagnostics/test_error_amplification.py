"""The normalised distance by layer against its equation."""

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.errors import InvalidInputError


def test_distances_are_equation_4_at_the_input_of_each_layer(digits):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 6), nn.ReLU(), nn.Linear(6, 10)
    )
    classifier = qadv.QuantizedClassifier(
        qadv.quantize(model, "int:4", "relu1:8"), nn.CrossEntropyLoss(), (1, 8, 8), 10
    )
    x = digits.x_test[:7]
    moved = np.clip(x + 0.1, 0, 1)
    hooks = [len(module._forward_pre_hooks) for module in classifier.model.modules()]
    found = qadv.error_amplification(classifier, x, moved, batch_size=3)
    assert found.layers == ("0", "3", "5")
    quantized = classifier.model
    for depth, layer in ((0, 0), (3, 1), (5, 2)):
        with torch.no_grad():
            a, b = (quantized[:depth](torch.from_numpy(images)).flatten(1).numpy() for images in (x, moved))
        norm = np.linalg.norm(a, axis=1)
        assert (norm > 0).sum() >= 4
        expected = (np.linalg.norm(a - b, axis=1)[norm > 0] / norm[norm > 0]).mean()
        assert found.distance[layer] == pytest.approx(expected, rel=1e-5)
    assert [len(module._forward_pre_hooks) for module in quantized.modules()] == hooks, "no hook is left behind"


def test_equal_images_have_no_distance_and_unequal_shapes_are_refused(trained, digits):
    x = digits.x_test[:4]
    assert (qadv.error_amplification(trained, x, x).distance == 0).all()
    with pytest.raises(InvalidInputError, match="expected the shape of x"):
        qadv.error_amplification(trained, x, x[:2])


def test_a_layer_that_no_image_reaches_has_no_distance(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with torch.no_grad():
        model[1].bias.fill_(-100)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10)
    found = qadv.error_amplification(classifier, digits.x_test[:3], digits.x_test[:3])
    assert found.to_dict()["distance"] == [0.0, None]
