"""The checks for detectors."""

from typing import Any

import numpy as np
from art.defences.detector.evasion import EvasionDetector

from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import check, expect, expect_same, expect_subclass
from qadv.testing.global_state import from_seed
from qadv.testing.materials import few, trained_on


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
    detector = from_seed(case.fitted)
    whole, parts = (from_seed(lambda size=size: detector.detect(few()[0], batch_size=size)[1]) for size in (128, 4))  # type: ignore[misc]
    expect_same(whole, parts, "the same flags for any batch_size", "take no statistics over a batch; keep the last one")
