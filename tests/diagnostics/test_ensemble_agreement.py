"""PR, defense accuracy and table 5 against definitions written with loops, and the identities between them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import qadv
from qadv.diagnostics.ensemble_agreement import (
    agreement_with_source,
    measure_agreement,
    most_voted,
)
from qadv.errors import InvalidInputError


def by_hand(member_classes, y, m):
    """Equations 11 to 13, image by image."""
    members, n = member_classes.shape
    valid, successful, right = [], 0, 0
    for i in range(n):
        votes = {}
        for k in range(members):
            votes[member_classes[k, i]] = votes.get(member_classes[k, i], 0) + 1
        best = max(votes.values())
        if best >= m:
            valid.append(i)
            label = min(c for c, v in votes.items() if v == best)
            successful += label != y[i]
            right += label == y[i]
    return len(valid) / n, 1 - successful / n, right / n, right / len(valid) if valid else None


def table_5_by_hand(member_classes, y, source):
    right, wrong = [], []
    for i in range(len(y)):
        others = [member_classes[k, i] == y[i] for k in range(len(member_classes)) if k != source]
        if member_classes[source, i] == y[i]:
            right.append(all(others))
        else:
            wrong.append(not any(others))
    return np.mean(right), np.mean(wrong)


@pytest.fixture(params=[0, 1, 2])
def predictions(request):
    """Five members that are right more and less often and share some of their errors, and the true classes."""
    rng = np.random.default_rng(request.param)
    y = rng.integers(0, 4, 300)
    noisy = np.where(rng.random((5, 300)) < 0.7, rng.integers(0, 4, 300), rng.integers(0, 4, (5, 300)))
    right = rng.random((5, 300)) < np.linspace(0.2, 0.7, 5)[:, None]
    return np.where(right, y, noisy), y


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_the_equations(m, predictions):
    member_classes, y = predictions
    found = measure_agreement(member_classes, y, m)
    rate, defended, right, right_of_predicted = by_hand(member_classes, y, m)
    assert found.prediction_rate == pytest.approx(rate)
    assert found.defense_accuracy == pytest.approx(defended)
    assert found.accuracy == pytest.approx(right)
    assert found.accuracy_predicted == pytest.approx(right_of_predicted)
    # abstentions are what lies between the two ways of counting them
    assert found.defense_accuracy - found.accuracy == pytest.approx(1 - found.prediction_rate)
    assert sum(found.agreement[m - 1 :]) == pytest.approx(found.prediction_rate)
    assert sum(found.agreement) == pytest.approx(1)


def test_asking_for_more_agreement_predicts_less_and_defends_more(predictions):
    reports = [measure_agreement(*predictions, m) for m in (1, 2, 3, 4, 5)]
    assert reports[0] == replace(reports[1], m=1)  # of five members and four classes two always agree
    for less, more in pairwise(reports[1:]):
        assert more.prediction_rate < less.prediction_rate
        assert more.defense_accuracy > less.defense_accuracy
        assert more.accuracy <= less.accuracy
    assert reports[0].prediction_rate == 1
    assert reports[0].accuracy == reports[0].defense_accuracy


@pytest.mark.parametrize("source", range(5))
def test_table_5(source, predictions):
    found = agreement_with_source(*predictions, source)
    assert (found.right, found.wrong) == pytest.approx(table_5_by_hand(*predictions, source))


def test_table_5_without_errors():
    classes = np.zeros((3, 4), dtype=int)
    assert agreement_with_source(classes, np.zeros(4, dtype=int), 0).wrong is None
    assert agreement_with_source(classes, np.zeros(4, dtype=int), 0).to_dict()["wrong"] is None
    assert "–" in str(agreement_with_source(classes, np.zeros(4, dtype=int), 0))
    assert agreement_with_source(classes, np.ones(4, dtype=int), 0).right is None
    assert agreement_with_source(classes, np.ones(4, dtype=int), 0).wrong == 1


def test_ties_go_to_the_smallest_class_as_in_the_network():
    labels, counts = most_voted(np.array([[7, 1, 2], [3, 1, 0], [7, 0, 1], [3, 0, 3]]))
    assert labels.tolist() == [3, 0, 0]
    assert counts.tolist() == [2, 2, 1]


def test_the_diagnostic_measures_an_ensemble(make_classifier, digits):
    ensemble = qadv.EnsembleClassifier.of([make_classifier(seed=seed) for seed in range(3)])
    x, y = digits.x_test[:50], digits.y_test[:50]
    found = qadv.load("diagnostic", "ensemble-agreement")(ensemble, x, y, m=2)
    expected = by_hand(ensemble.member_predictions(x), y, 2)
    assert (found.prediction_rate, found.defense_accuracy, found.accuracy) == pytest.approx(expected[:3])
    assert found.to_dict()["samples"] == 50
    found = qadv.load("diagnostic", "source-agreement")(ensemble, x, y, source=1)
    assert (found.right, found.wrong) == pytest.approx(table_5_by_hand(ensemble.member_predictions(x), y, 1))


def test_what_is_no_prediction_is_refused(make_classifier, digits):
    classes, y = np.zeros((3, 4), dtype=int), np.zeros(4, dtype=int)
    with pytest.raises(InvalidInputError, match=r"member_classes: expected .* got float64 \(3, 4\)"):
        most_voted(classes.astype(float))
    with pytest.raises(InvalidInputError, match="y: expected 4 true classes"):
        measure_agreement(classes, np.eye(10)[y], 2)
    with pytest.raises(InvalidInputError, match="m: expected a whole number from 1 to 3, got 4"):
        measure_agreement(classes, y, 4)
    with pytest.raises(InvalidInputError, match="source: expected the index of one of 3 members, got 3"):
        agreement_with_source(classes, y, 3)
    with pytest.raises(InvalidInputError, match="expected an EnsembleClassifier, got QuantizedClassifier"):
        qadv.load("diagnostic", "ensemble-agreement")(make_classifier(), digits.x_test[:4], y, m=2)
