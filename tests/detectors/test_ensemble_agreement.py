"""The detector flags what the members do not agree on, through ART's contract."""

import numpy as np
import pytest
from art.defences.detector.evasion import EvasionDetector

import qadv
from qadv.errors import InvalidInputError


@pytest.fixture
def ensemble(make_classifier):
    """Three untrained members: they agree on some images and not on others."""
    members = [make_classifier(weights, "float", seed=5) for weights in ("float", "int:8", "int:2")]
    return qadv.EnsembleClassifier.of(members)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_it_flags_what_fewer_than_m_members_agree_on(m, ensemble, digits):
    detector = qadv.create("detector", "ensemble-agreement", ensemble, m=m)
    assert isinstance(detector, EvasionDetector)
    detector.fit(digits.x_train, digits.y_train)
    report, flagged = detector.detect(digits.x_test, batch_size=50)
    classes = np.stack([member.predict(digits.x_test).argmax(1) for member in ensemble.members])
    agreeing = np.array([np.bincount(column).max() for column in classes.T])
    assert flagged.dtype == bool
    np.testing.assert_array_equal(flagged, agreeing < m)
    np.testing.assert_array_equal(report["agreement"], agreeing)
    np.testing.assert_array_equal(report["member_predictions"], classes)
    if m == 3:
        assert 0 < flagged.mean() < 1


def test_the_abstaining_ensemble_decides_the_same(ensemble, digits):
    report, flagged = qadv.EnsembleAgreementDetector(ensemble, m=2).detect(digits.x_test)
    decided = ensemble.combined_by("vote", abstain_below=2).predict(digits.x_test).argmax(1)
    np.testing.assert_array_equal(np.where(flagged, 10, report["labels"]), decided)


def test_parameters_are_checked_as_in_art(ensemble, make_classifier):
    detector = qadv.EnsembleAgreementDetector(ensemble, m=2)
    assert detector.get_params() == {"classifier": ensemble, "m": 2}
    detector.set_params(m=3)
    assert detector.m == 3
    assert repr(detector).endswith("m=3)")
    with pytest.raises(InvalidInputError, match="m: expected a whole number from 1 to 3, got 4"):
        detector.set_params(m=4)
    with pytest.raises(InvalidInputError, match="expected an EnsembleClassifier, got QuantizedClassifier"):
        qadv.EnsembleAgreementDetector(make_classifier(), m=2)
    with pytest.raises(InvalidInputError, match="divide by 255"):
        detector.detect(np.full((2, 1, 8, 8), 200.0, dtype=np.float32))
