"""Norms of the quantization error against matrices written out in full."""

import numpy as np
import pytest
import torch
from torch import nn

import qadv
from qadv.diagnostics.weight_error import WeightError, draw_weight_error
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.quantization.frozen import freeze


def written_out(delta, shape, stride=1, padding=0, dilation=1, groups=1):
    """The matrix of a convolution with weights (c_out, c_in, k, k) on inputs (c_in, H, W), entry by entry."""
    c_in, height, width = shape
    c_out, in_group, k, _ = delta.shape
    rows = (height + 2 * padding - dilation * (k - 1) - 1) // stride + 1
    columns = (width + 2 * padding - dilation * (k - 1) - 1) // stride + 1
    matrix = np.zeros((c_out, rows, columns, c_in, height, width))
    for o in range(c_out):
        first = o // (c_out // groups) * in_group
        for r in range(rows):
            for c in range(columns):
                for i in range(in_group):
                    for a in range(k):
                        for b in range(k):
                            y, x = r * stride - padding + a * dilation, c * stride - padding + b * dilation
                            if 0 <= y < height and 0 <= x < width:
                                matrix[o, r, c, first + i, y, x] += delta[o, i, a, b]
    return matrix.reshape(c_out * rows * columns, -1)


def classifier_of(*layers, input_shape=(2, 7, 6), scheme="int:3"):
    torch.manual_seed(0)
    model = qadv.quantize(nn.Sequential(*layers), scheme, "float", skip_first_last=False)
    return qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), input_shape, 5)


def error_of(layer):
    weight = layer.weight.detach().numpy().astype(np.float64)
    scale = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / 3
    return scale * np.round(weight / scale) - weight


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 1, "groups": 2},
    ],
    ids=str,
)
def test_norms_are_largest_singular_values(options):
    convolution = nn.Conv2d(4, 6, 3, bias=True, **options)
    classifier = classifier_of(
        nn.Conv2d(2, 4, 3), nn.ReLU(), convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )
    found = qadv.weight_error_norms(classifier, tol=1e-10)
    assert found.layers == ("0", "2", "5")
    for index, (name, shape, given) in enumerate([("0", (2, 7, 6), {}), ("2", (4, 5, 4), options)]):
        delta = error_of(classifier.model[int(name)])
        groups = given.get("groups", 1)
        parts = delta.reshape(groups, delta.shape[0] // groups, -1)
        assert found.matrix[index] == pytest.approx(max(np.linalg.norm(part, 2) for part in parts), rel=1e-5)
        assert found.operator[index] == pytest.approx(np.linalg.norm(written_out(delta, shape, **given), 2), rel=1e-4)
    assert found.matrix[2] == found.operator[2] == pytest.approx(np.linalg.norm(error_of(classifier.model[5]), 2))


def test_a_convolution_overlaps_so_its_norm_is_not_that_of_the_matrix():
    """A kernel of equal errors: the matrix has norm e·k, the operator nearly e·k² on a large image."""
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    classifier = classifier_of(layer, nn.Flatten(), nn.Linear(400, 5), input_shape=(1, 20, 20), scheme="bwn")
    with torch.no_grad():
        classifier.model[0].weight.copy_(torch.tensor([[2.0, 1, 1], [1, 1, 1], [1, 1, 1]]))
    reference = classifier_of(layer, nn.Flatten(), nn.Linear(400, 5), input_shape=(1, 20, 20), scheme="bwn")
    with torch.no_grad():
        reference.model[0].weight.fill_(1.0)
    found = qadv.weight_error_norms(classifier, reference=reference)  # 10/9 - 1 everywhere
    assert found.matrix[0] == pytest.approx(3 / 9, rel=1e-5)
    assert 0.95 < found.operator[0] < 1.0


def test_other_padding_modes_and_arrays_for_the_size():
    convolution = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular", bias=False)
    classifier = classifier_of(
        convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5), input_shape=(1, 8, 8)
    )
    delta = torch.from_numpy(error_of(classifier.model[0]))
    spectrum = torch.fft.fft2(delta, s=(8, 8)).permute(2, 3, 0, 1)  # circular: the Fourier transform diagonalises it
    expected = torch.linalg.matrix_norm(spectrum, ord=2).max().item()
    images = np.zeros((3, 1, 8, 8), np.float32)
    assert qadv.weight_error_norms(classifier, images, tol=1e-10).operator[0] == pytest.approx(expected, rel=1e-4)


def test_timms_same_padding():
    from timm.layers import Conv2dSame

    classifier = classifier_of(
        Conv2dSame(1, 2, 3, stride=2, bias=False), nn.Flatten(), nn.Linear(18, 5), input_shape=(1, 6, 6)
    )
    delta = error_of(classifier.model[0])
    below = written_out(delta, (1, 7, 7), stride=2).reshape(-1, 7, 7)[
        :, :6, :6
    ]  # one row and column of zeros at the end
    found = qadv.weight_error_norms(classifier, tol=1e-10)
    assert found.operator[0] == pytest.approx(np.linalg.norm(below.reshape(len(below), -1), 2), rel=1e-4)


def test_a_reference_says_what_the_weights_were(make_classifier):
    original = make_classifier("float", "float")
    mapped = qadv.MuLawWeightMapping(original, mu=10.0)()
    quantized = qadv.PostTrainingQuantization(mapped, "int:3", "float", skip_first_last=False)()
    own = qadv.weight_error_norms(quantized)
    assert qadv.weight_error_norms(quantized, reference=mapped).operator == pytest.approx(own.operator)
    whole = qadv.weight_error_norms(quantized, reference=original)
    difference = quantized.model[12].decoded() - original.model[12].weight.detach()
    assert whole.matrix[-1] == pytest.approx(np.linalg.norm(difference.numpy(), 2), rel=1e-5)
    assert (whole.matrix == pytest.approx(own.matrix)) is False
    frozen = qadv.QuantizedClassifier(freeze(quantized.model), nn.CrossEntropyLoss(), (1, 8, 8), 10)
    assert qadv.weight_error_norms(frozen, reference=mapped).operator == pytest.approx(own.operator)
    with pytest.raises(UnsupportedModelError, match="give the classifier it was made from"):
        qadv.weight_error_norms(frozen)


def test_weights_that_quantization_does_not_change_have_no_error():
    classifier = classifier_of(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 5), input_shape=(1, 4, 4), scheme="bwn")
    with torch.no_grad():
        for index in (0, 2):
            classifier.model[index].weight.copy_(0.25 * classifier.model[index].weight.sign())
    assert qadv.weight_error_norms(classifier).to_dict() == {
        "layers": ["0", "2"],
        "matrix": [0.0, 0.0],
        "operator": [0.0, 0.0],
    }


def test_what_has_no_quantized_weights_or_another_shape_is_refused(make_classifier):
    with pytest.raises(UnsupportedModelError, match="quantize it first"):
        qadv.weight_error_norms(make_classifier("float", "float"))
    with pytest.raises(InvalidInputError, match="reference: expected a layer '4'"):
        qadv.weight_error_norms(make_classifier(), reference=make_classifier("float", "float", width=4))


def test_a_layer_that_is_not_used_is_named():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Linear(16, 5)
            self.spare = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.used(x.flatten(1))

    model = qadv.quantize(Forgetful(), "int:3", "float", skip_first_last=False)
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), (1, 4, 4), 5)
    with pytest.raises(UnsupportedModelError, match="no image reaches spare"):
        qadv.weight_error_norms(classifier)


def test_nothing_is_left_behind(make_classifier, digits):
    classifier = make_classifier()
    hooks = [len(module._forward_pre_hooks) for module in classifier.model.modules()]
    before = classifier.predict(digits.x_test[:4])
    classifier.model.train()
    qadv.weight_error_norms(classifier)
    assert classifier.model.training
    assert [len(module._forward_pre_hooks) for module in classifier.model.modules()] == hooks
    np.testing.assert_array_equal(classifier.predict(digits.x_test[:4]), before)


def test_it_is_drawn():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    draw_weight_error({"3 bit": WeightError(("a", "b"), np.array([1.0, 2.0]), np.array([1.5, 2.5]))}, axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1.5, 2.5])
    assert axes.get_legend_handles_labels()[1] == ["3 bit"]
