"""The checks for transformers."""

from typing import Any

from art.defences.transformer.transformer import Transformer
from art.estimators.classification import PyTorchClassifier

from qadv.testing.case import Arrays, Case
from qadv.testing.check import check, expect, refused
from qadv.testing.compare import difference
from qadv.testing.trainers import state
from qadv.testing.use import check_attackable, check_saved


class TransformerCase(Case):
    kind = "transformer"

    def run(self, inputs: Arrays | None = None, **changes: Any) -> Any:
        made = self.transformed(self.inputs() if inputs is None else inputs, **changes)
        return {"state": state(made), "logits": made.predict(self.inputs()["x"])}

    def transformed(self, inputs: Arrays, **changes: Any) -> Any:
        """Returns the transformed classifier; some of ART's own transformers need one to put the result into."""
        transformer = self.make(**changes)
        transformer.fit(inputs["x"], inputs["y"])
        return transformer(inputs["x"], transformed_classifier=self.classifier())


@check("transformer")
def contract(case: TransformerCase) -> None:
    """It subclasses ART's `Transformer`; a call gives a classifier for the same images and classes."""
    transformer = case.make()
    expect(
        isinstance(transformer, Transformer),
        "a subclass of art.defences.transformer.transformer.Transformer",
        type(transformer).__name__,
        "class MyTransformer(Transformer)",
    )
    made = case.transformed(case.inputs())
    expect(
        isinstance(made, PyTorchClassifier), "an ART PyTorchClassifier", type(made).__name__, "return the classifier"
    )
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
    changed = difference(before, (state(classifier), classifier.predict(inputs["x"])), "the classifier")
    expect(changed is None, "the same weights and logits", changed, "copy.deepcopy(classifier.model) first")


@check("transformer")
def changes(case: TransformerCase) -> None:
    """The result gives other logits than the classifier before."""
    inputs = case.inputs()
    before, after = case.classifier().predict(inputs["x"]), case.transformed(inputs).predict(inputs["x"])
    expect(
        difference(before, after) is not None,
        "other logits",
        "the same",
        "return the transformed classifier; try stronger options in the test",
    )


@check("transformer")
def attacked_afterwards(case: TransformerCase) -> None:
    """ART's FGSM and PGD run on the transformed classifier, and its input gradient is not zero."""
    check_attackable(case.transformed(case.inputs()))


@check("transformer")
def save_and_load(case: TransformerCase) -> None:
    """A transformed `QuantizedClassifier` that is saved and loaded gives the same logits."""
    check_saved(case.transformed(case.inputs()))


@check("transformer")
def bad_input(case: TransformerCase) -> None:
    """What is no ART classifier is refused."""
    refused(lambda: case.target(object(), **case.options), "a classifier that is none", "check it in __init__")
