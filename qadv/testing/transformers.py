"""The checks for transformers."""

from typing import Any

from art.defences.transformer.transformer import Transformer
from art.estimators.classification import PyTorchClassifier

from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import check, expect, expect_same, expect_subclass
from qadv.testing.compare import difference
from qadv.testing.materials import state


class TransformerCase(ConformanceCase):
    kind = "transformer"

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        made = self.transformed(inputs, **changes)
        return {"state": state(made), "logits": made.predict(self.inputs()["x"])}

    def result(self) -> Any:
        """Returns the transformed classifier."""
        return self.transformed(self.inputs())

    def transformed(self, inputs: Arrays, **changes: Any) -> Any:
        """Returns the transformed classifier; some of ART's own transformers need one to put the result into."""
        transformer = self.make(**changes)
        transformer.fit(inputs["x"], inputs["y"])
        return transformer(inputs["x"], transformed_classifier=self.classifier())


@check("transformer")
def contract(case: TransformerCase) -> None:
    """It subclasses ART's `Transformer`; a call gives a classifier for the same images and classes."""
    transformer = case.make()
    expect_subclass(transformer, Transformer, "class MyTransformer(Transformer)")
    made = case.result()
    right = isinstance(made, PyTorchClassifier)
    expect(right, "an ART PyTorchClassifier", type(made).__name__, "return the classifier")
    given = case.classifier()
    for name in ("input_shape", "nb_classes", "clip_values"):
        came = getattr(made, name)
        expect(came == getattr(given, name), f"{name}={getattr(given, name)}", came, f"keep the classifier's {name}")


@check("transformer")
def original_untouched(case: TransformerCase) -> None:
    """The classifier that it was made with is the same afterwards."""
    classifier = case.classifier()
    transformer = case.target(classifier, **case.options)
    inputs = case.inputs()
    before = state(classifier), classifier.predict(inputs["x"])
    transformer(inputs["x"], transformed_classifier=case.classifier())
    after = state(classifier), classifier.predict(inputs["x"])
    expect_same(before, after, "the same weights and logits", "copy.deepcopy(classifier.model) first", "the classifier")


@check("transformer")
def changes(case: TransformerCase) -> None:
    """The result gives other logits than the classifier before."""
    x = case.inputs()["x"]
    changed = difference(case.classifier().predict(x), case.result().predict(x))
    do = "return the transformed classifier; try stronger options in the test"
    expect(changed is not None, "other logits", "the same", do)
