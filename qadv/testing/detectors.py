"""The checks for detectors."""

from typing import Any

import numpy as np
from art.defences.detector.evasion import EvasionDetector

from qadv.testing.case import Arrays, Case
from qadv.testing.check import check, expect, refused
from qadv.testing.compare import difference
from qadv.testing.global_state import set_random_states
from qadv.testing.materials import data, few


class DetectorCase(Case):
    kind = "detector"

    def fitted(self, **changes: Any) -> Any:
        """Returns a detector after `fit` on a few training images."""
        images = data()
        detector = self.make(**changes)
        detector.fit(images.x_train[:64].copy(), np.eye(10, dtype=np.float32)[images.y_train[:64]], nb_epochs=1)
        return detector

    def run(self, inputs: Arrays | None = None, **changes: Any) -> Any:
        inputs = self.inputs() if inputs is None else inputs
        return self.fitted(**changes).detect(inputs["x"])


@check("detector")
def contract(case: DetectorCase) -> None:
    """It subclasses ART's `EvasionDetector`; `detect` gives a report and, for each image, True or False."""
    detector = case.fitted()
    expect(
        isinstance(detector, EvasionDetector),
        "a subclass of art.defences.detector.evasion.EvasionDetector",
        type(detector).__mro__,
        "class MyDetector(EvasionDetector)",
    )
    for number in (6, 1):
        x, _ = few(number)
        result = detector.detect(x)
        do = "return report, flagged"
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
    x, _ = few()
    results = []
    for size in (128, 4):
        set_random_states(0)
        results.append(detector.detect(x, batch_size=size)[1])
    changed = difference(*results)
    expect(
        changed is None,
        "the same flags for any batch_size",
        changed,
        "take no statistics over a batch; keep the last one",
    )


@check("detector")
def bad_input(case: DetectorCase) -> None:
    """What is no classifier, and images of another shape or with NaN, are refused."""
    x, _ = few()
    broken = x.copy()
    broken[0, 0, 0, 0] = np.nan
    do = "qadv.estimators.checks has check_images"
    refused(lambda: case.target(object(), **case.options), "a classifier that is none", "check it in __init__")
    refused(lambda: case.fitted().detect(x[:, :, :-1].copy()), "images that are a row short", do)
    refused(lambda: case.fitted().detect(broken), "an image with NaN", do)
