"""What all drawings have in common."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import qadv
from qadv import diagnostics
from qadv.diagnostics.accuracy_curve import draw_accuracy_curve
from qadv.diagnostics.amplification_by_eps import draw_amplification_by_eps
from qadv.diagnostics.drawing import draw_accuracies
from qadv.diagnostics.ensemble_agreement import draw_ensemble_agreement, measure_agreement
from qadv.diagnostics.error_amplification import draw_error_amplification
from qadv.diagnostics.gradient_similarity import draw_gradient_similarity
from qadv.diagnostics.transfer_matrix import draw_transfer_matrix
from qadv.diagnostics.value_shift import draw_value_shift
from qadv.diagnostics.weight_error import WeightError, draw_weight_error
from qadv.errors import InvalidInputError

AGREED = measure_agreement(np.array([[0, 1, 2, 2], [0, 1, 1, 2], [0, 1, 0, 0]]), np.array([0, 1, 2, 0]), m=2)


def test_agreement_is_drawn_as_parts_of_all_images():
    figure = draw_ensemble_agreement({"clean": AGREED, "again": AGREED})
    (axes,) = figure.axes
    widths = np.array([[bar.get_width() for bar in bars] for bars in axes.containers])
    np.testing.assert_allclose(widths, [[25, 25], [25, 25], [50, 50]])
    assert axes.get_legend_handles_labels()[1] == ["1 of 3, filtered out", "2 of 3", "3 of 3"]
    other = measure_agreement(np.array([[0], [1]]), np.array([0]), m=2)
    with pytest.raises(InvalidInputError, match="one size"):
        draw_ensemble_agreement({"three": AGREED, "two": other})


def test_agreement_prints():
    assert "3 of 3 agree" in str(AGREED)
    assert "50.0%" in str(AGREED)


def test_norms_are_drawn_as_operator_as_matrix_or_both():
    norms = {"3 bit": WeightError(("a", "b"), np.array([1.0, 2.0]), np.array([1.5, 2.5]))}
    axes = draw_weight_error(norms, norm="both").axes[0]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [1, 2])
    assert axes.get_legend_handles_labels()[1] == ["3 bit", "3 bit, as a matrix"]
    assert "1.5" in str(norms["3 bit"])
    with pytest.raises(InvalidInputError, match="norm"):
        draw_weight_error(norms, norm="frobenius")
    with pytest.raises(InvalidInputError, match="an empty one"):
        draw_weight_error({})


def test_given_axes_are_used_and_a_figure_can_be_saved(tmp_path):
    axes = Figure().add_subplot()
    assert draw_ensemble_agreement({"clean": AGREED}, axes) is axes.figure
    axes.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_matplotlib_is_imported_on_drawing_and_pyplot_never():
    for path in Path(diagnostics.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        imported = {
            node: [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        for node, names in imported.items():
            assert not any("pyplot" in name for name in names), path.name
            assert node not in tree.body or not any(name.startswith("matplotlib") for name in names), path.name


def test_what_was_written_as_json_is_read_and_drawn_again(trained, digits, make_classifier):
    x, y = digits.x_test[:4], digits.y_test[:4]
    networks = {"a": trained, "b": make_classifier(seed=1)}

    def noise(classifier, eps=0.1):
        return qadv.UniformNoise(classifier, eps=eps, seed=0, verbose=False)

    by_eps = qadv.amplification_by_eps(trained, x, y, [0, 0.1], noise, at="activations")
    measured = [
        (by_eps, lambda found: draw_amplification_by_eps({"a": found})),
        (qadv.error_amplification(trained, x, x), lambda found: draw_error_amplification({"a": found})),
        (qadv.value_shift(trained, x, x), lambda found: draw_value_shift({"a": found}, "absorbed")),
        (qadv.gradient_similarity(networks, x, y), draw_gradient_similarity),
        (qadv.transfer_matrix(networks, x, y, {"noise": noise}), draw_transfer_matrix),
        (qadv.accuracy_curve(trained, x, y, [0, 0.1], noise), lambda found: draw_accuracy_curve({"a": found})),
        (qadv.weight_error_norms(trained), lambda found: draw_weight_error({"a": found})),
        (AGREED, lambda found: draw_ensemble_agreement({"a": found})),
    ]
    for found, draw in measured:
        again = type(found).from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
        assert str(again) == str(found)
        assert again.to_dict() == found.to_dict()
        assert draw(again).axes


def test_accuracies_are_drawn_as_a_bar_for_each_network():
    columns = {"clean": np.array([0.9, 0.8]), "corrupted": np.array([[0.2, 0.4], [0.6, 0.4]])}
    columns |= {"worst case": np.array([0.0, 0.3])}
    (axes,) = draw_accuracies(columns, ["float", "4 bit"]).axes
    bars = [container for container in axes.containers if hasattr(container[0], "get_height")]
    np.testing.assert_allclose([[bar.get_height() for bar in each] for each in bars], [[90, 40, 0], [80, 40, 30]])
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["0"], "a bar that can't be seen"
    (line,) = axes.collections[0].get_segments()
    np.testing.assert_allclose(line[:, 1], [20, 60])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["clean", "corrupted", "worst case"]
