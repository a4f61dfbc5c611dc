"""The checks for postprocessors."""

from typing import Any

import numpy as np
from art.defences.postprocessor import Postprocessor

from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import check, expect, expect_array, expect_subclass
from qadv.testing.materials import digits_classifier, few
from qadv.testing.use import check_attackable


class PostprocessorCase(ConformanceCase):
    kind = "postprocessor"
    of_classifier = False

    def inputs(self) -> Arrays:
        return {"preds": digits_classifier().predict(few()[0])}

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return self.make(**changes)(inputs["preds"])


@check("postprocessor")
def contract(case: PostprocessorCase) -> None:
    """It subclasses ART's `Postprocessor`, and a call on predictions gives predictions."""
    expect_subclass(case.make(), Postprocessor, "class MyPostprocessor(Postprocessor)")


@check("postprocessor")
def shape_and_dtype(case: PostprocessorCase) -> None:
    """(N, nb_classes) float32 in, the same out, all finite; row by row it gives what it gives for all."""
    made = case.make()
    for preds in (case.inputs()["preds"], 1e4 * case.inputs()["preds"]):
        result = made(preds)
        expect_array(result, preds.shape, "return a row for each row, result.astype(np.float32)")
        singly = np.concatenate([made(preds[i : i + 1]) for i in range(len(preds))])
        same = np.allclose(result, singly, atol=1e-5)
        expect(same, "rows that do not depend on each other", "others", "work along axis 1")


@check("postprocessor")
def in_a_classifier(case: PostprocessorCase) -> None:
    """A `QuantizedClassifier` takes it among its `postprocessing_defences`, and is attacked by ART."""
    check_attackable(digits_classifier(postprocessing_defences=[case.make()]))
