"""The checks for trainers."""

from typing import TYPE_CHECKING, Any

import numpy as np
from art.defences.trainer import Trainer

from qadv.estimators.protocol import Classifier
from qadv.evaluation import predicted
from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import check, expect, expect_same, expect_subclass, refused
from qadv.testing.compare import difference
from qadv.testing.global_state import from_seed
from qadv.testing.materials import state, trained_on, untrained
from qadv.testing.use import check_attackable, check_saved

if TYPE_CHECKING:
    from qadv.testing.transformers import TransformerCase


class TrainerCase(ConformanceCase):
    kind = "trainer"

    def inputs(self) -> Arrays:
        return trained_on()

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return state(self.trained(**inputs, **changes))

    def result(self) -> Any:
        """Returns the trained classifier."""
        return self.trained(**self.inputs())

    def trained(self, x: Any, y: Any, nb_epochs: int = 1, classifier: Classifier | None = None, **changes: Any) -> Any:
        """Returns the classifier after `fit`."""
        trainer = self.target(self.classifier() if classifier is None else classifier, **{**self.options, **changes})
        trainer.fit(x, y, nb_epochs=nb_epochs, batch_size=32)
        return trainer.get_classifier()


@check("trainer")
def contract(case: TrainerCase) -> None:
    """It subclasses ART's `Trainer`, `fit(x, y, nb_epochs=, batch_size=)` trains the classifier it was given."""
    classifier = case.classifier()
    trainer = case.target(classifier, **case.options)
    expect_subclass(trainer, Trainer, "class MyTrainer(Trainer)")
    do = "call super().__init__(classifier), and train classifier.model in place"
    expect(trainer.get_classifier() is classifier, "get_classifier() to return the classifier", "another", do)
    before = state(classifier)
    trainer.fit(**case.inputs(), nb_epochs=1, batch_size=32)
    after = state(classifier)
    same = list(before) == list(after)
    expect(same, "the same parameters and buffers", list(after), "replace no modules of the network")
    weights = [name for name, _ in classifier.model.named_parameters()]
    expect(difference(before, after) is not None, "trained weights", f"{weights} unchanged", do)
    finite = [name for name, value in after.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    do = "stop with TrainingError where the loss is not finite"
    expect(not finite, "finite weights", f"NaN or infinity in {finite}", do)


@check("trainer")
def learns(case: TrainerCase) -> None:
    """From random weights it gets the network above 40 % of the digits it is trained on, in 8 epochs."""
    classifier, images = untrained() if case.own_classifier is None else case.classifier(), trained_on(300)
    trained = from_seed(lambda: case.trained(**images, nb_epochs=8, classifier=classifier))
    share = (predicted(trained, images["x"]) == images["y"].argmax(1)).mean()
    do = "go down the loss of the labels too; try other options"
    expect(share > 0.4, "an accuracy above 40 %", f"{share:.0%}", do)


@check("trainer")
def labels(case: TrainerCase) -> None:
    """`y` is taken as indices and as one-hot rows, with one result."""
    x, y = case.inputs().values()
    one, other = (from_seed(lambda given=given: state(case.trained(x, given))) for given in (y.argmax(1), y))  # type: ignore[misc]
    expect_same(one, other, "the same weights", "check_labels of qadv.estimators.checks takes both")


@check("trainer", "transformer")
def attacked_afterwards(case: "TrainerCase | TransformerCase") -> None:
    """ART's FGSM and PGD run on the classifier that comes out, and its input gradient is not zero."""
    check_attackable(case.result())


@check("trainer", "transformer")
def save_and_load(case: "TrainerCase | TransformerCase") -> None:
    """A `QuantizedClassifier` that comes out, saved and loaded, gives the same logits."""
    check_saved(case.result())


@check("attack", "detector", "diagnostic", "trainer", "transformer")
def bad_input(case: ConformanceCase) -> None:
    """What is no ART classifier, images with NaN or of another shape, and labels of another number are refused."""
    inputs = case.inputs()
    x, y = inputs["x"][:6], inputs["y"][:6]
    broken = x.copy()
    broken[0, 0, 0, 0] = np.nan
    do = "check it in __init__; qadv.estimators.checks has check_images and check_labels"
    if case.kind != "diagnostic":
        refused(lambda: case.target(object(), **case.options), "a classifier that is none", do)
    if case.kind != "transformer":
        refused(lambda: case.run({**inputs, "x": x[:, :, :-1].copy(), "y": y}), "images that are a row short", do)
        refused(lambda: case.run({**inputs, "x": broken, "y": y}), "an image with NaN", do)
    if case.kind in ("attack", "trainer") or "y" in case.parameters:
        refused(lambda: case.run({**inputs, "x": x, "y": y[:-1]}), f"{len(y) - 1} labels for {len(x)} images", do)
