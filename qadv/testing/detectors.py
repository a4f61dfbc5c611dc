"""The checks for detectors."""

from typing import Any

import numpy as np
from art.defences.detector.evasion import EvasionDetector

from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import check, expect, expect_same, expect_subclass
from qadv.testing.global_state import set_random_states
from qadv.testing.materials import few, trained_on
from qadv.testing.use import check_classifier_refused, check_refused


class DetectorCase(ConformanceCase):
    kind = "detector"

    def fitted(self, **changes: Any) -> Any:
        """Returns a detector after `fit` on a few training images."""
        detector = self.make(**changes)
        detector.fit(*trained_on().values(), nb_epochs=1)
        return detector

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return self.fitted(**changes).detect(inputs["x"])


@check("detector")
def contract(case: DetectorCase) -> None:
    """It subclasses ART's `EvasionDetector`; `detect` gives a report and, for each image, True or False."""
    detector = case.fitted()
    expect_subclass(detector, EvasionDetector, "class MyDetector(EvasionDetector)")
    for number in (6, 1):
        result, do = detector.detect(few(number)[0]), "return report, flagged"
        expect(isinstance(result, tuple) and len(result) == 2, "a pair (report, flagged)", type(result).__name__, do)
        report, flagged = result
        expect(isinstance(report, dict), "a dict as report", type(report).__name__, do)
        came = f"{np.shape(flagged)}, {getattr(flagged, 'dtype', type(flagged).__name__)}"
        right = isinstance(flagged, np.ndarray) and flagged.dtype == bool and flagged.shape == (number,)
        expect(right, f"flags ({number},), bool, numpy", came, "np.asarray(score > threshold), one for each image")


@check("detector")
def batches(case: DetectorCase) -> None:
    """What is flagged does not depend on `batch_size`."""
    set_random_states(0)
    detector = case.fitted()
    results = []
    for size in (128, 4):
        set_random_states(0)
        results.append(detector.detect(few()[0], batch_size=size)[1])
    do = "take no statistics over a batch; keep the last one"
    expect_same(results[0], results[1], "the same flags for any batch_size", do)


@check("detector")
def bad_input(case: DetectorCase) -> None:
    """What is no classifier, and images of another shape or with NaN, are refused."""
    check_classifier_refused(case)
    check_refused(lambda x, y: case.fitted().detect(x), labels=False)
