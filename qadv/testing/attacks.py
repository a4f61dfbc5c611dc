"""The checks for attacks."""

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack, ExtractionAttack, InferenceAttack, PoisoningAttack
from art.estimators.classification import ClassifierMixin

from qadv.attacks.families import family_of
from qadv.estimators.door import give_optimizer
from qadv.estimators.protocol import Classifier
from qadv.evaluation import predicted
from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import NotApplicable, check, expect, expect_array, expect_same, expect_subclass, refused
from qadv.testing.global_state import from_seed
from qadv.testing.materials import digits_classifier, few, plain, state
from qadv.testing.use import check_range
from qadv.units import to_range, width

_BASES = {
    "evasion": EvasionAttack,
    "extraction": ExtractionAttack,
    "inference": InferenceAttack,
    "poisoning": PoisoningAttack,
}


class AttackCase(ConformanceCase):
    kind = "attack"

    @property
    def family(self) -> str:
        return family_of(self.target)

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        return self.found(self.make(**changes), inputs["x"], inputs["y"])

    def found(self, attack: Any, x: Any, y: Any = None) -> Any:
        """Returns what an attack gives: images, a copy's logits, what is inferred, or poisoned images and labels."""
        if self.family == "extraction":
            thief = digits_classifier("float", "float")
            give_optimizer(thief, torch.optim.Adam(thief.model.parameters()))
            stolen = attack.extract(x, thieved_classifier=thief)
            return stolen.predict(few()[0]) if isinstance(stolen, ClassifierMixin) else stolen
        if self.family == "inference":
            if hasattr(attack, "fit"):
                attack.fit(x, y, x, y)
            return attack.infer(x, y)
        return attack.generate(x, y) if self.family == "evasion" else attack.poison(x, y)

    def seeded(self, *arguments: Any, classifier: Classifier | None = None, **changes: Any) -> Any:
        """Returns what it gives from seeded states, for `inputs()` or for other `arguments`."""
        attack = self.target(self.classifier() if classifier is None else classifier, **{**self.options, **changes})
        return from_seed(lambda: self.found(attack, *(arguments or self.inputs().values())))


def _of_images(function: Callable[[AttackCase], None]) -> None:
    """Makes a function a check for attacks that make adversarial images."""

    @check("attack")
    @wraps(function)
    def run(case: AttackCase) -> None:
        if case.family != "evasion":
            raise NotApplicable("it makes no adversarial images")
        function(case)


@check("attack")
def contract(case: AttackCase) -> None:
    """It subclasses the base class of its family in ART, says which estimators it takes, and takes one first."""
    attack = case.make()
    base = _BASES[case.family]
    expect_subclass(attack, base, f"class MyAttack({base.__name__})")
    needs = attack._estimator_requirements
    do = "_estimator_requirements = (BaseEstimator, ClassifierMixin), with LossGradientsMixin if gradients are used"
    expect(isinstance(needs, tuple) and needs, "_estimator_requirements, a tuple of classes", needs, do)
    do = "call super().__init__(estimator=...)"
    expect(attack.estimator is not None, "an attack with its estimator", attack.estimator, do)
    targeted = getattr(attack, "targeted", None)
    fits = case.family != "evasion" or isinstance(targeted, bool)
    expect(fits, "`targeted`, True or False", repr(targeted), "set self._targeted")
    refused(lambda: case.target(object(), **case.options), "an estimator that is none", do)


@_of_images
def shape_and_dtype(case: AttackCase) -> None:
    """float32 images in, as many float32 images of that shape out, all finite; also for a single image."""
    x, y = case.inputs().values()
    for images, labels in ((x, y), (x[:1], y[:1])):
        made = case.make().generate(images.copy(), labels)
        expect_array(made, images.shape, "return one image for each, tensor.cpu().numpy().astype(np.float32)")


@_of_images
def range_of_pixels(case: AttackCase) -> None:
    """Adversarial images stay within the estimator's `clip_values`, whatever these are."""
    x, y = case.inputs().values()
    for limits in [None] if case.own_classifier else [None, (-1.0, 0.5)]:
        classifier = digits_classifier(clip_values=limits) if limits else case.classifier()
        made = case.seeded(to_range(x, limits), y, classifier=classifier)
        low, high = classifier.clip_values
        check_range(made, low, high, "np.clip(x, *self.estimator.clip_values); do not assume 0 to 1")


@_of_images
def ball(case: AttackCase) -> None:
    """An attack with `eps` changes no image by more, in the norm that `norm` names or else L-inf."""
    attack = case.make()
    eps, norm = getattr(attack, "eps", None), getattr(attack, "norm", np.inf)
    if not isinstance(eps, int | float) or norm not in (1, 2, np.inf, "1", "2", "inf"):
        raise NotApplicable("it has no number `eps`, or another norm")
    x, y = few()
    change = (case.seeded(x.copy(), y) - x).reshape(len(x), -1).astype(np.float64)
    farthest = np.linalg.norm(change, ord=float(norm), axis=1).max()
    inside = farthest <= eps * (1 + 1e-4) + 1e-6 * width(attack.estimator.clip_values)
    do = "project on the ball after the last step; if eps means something else, give it another name"
    expect(inside, f"changes of at most eps = {eps:g}, L{norm}", f"{farthest:g}", do)


@_of_images
def changes(case: AttackCase) -> None:
    """It changes some image, and the network gets no more of the changed images right than of the clean ones."""
    x, y = few()
    made = case.seeded(x.copy(), y)
    expect((made != x).any(), "some image changed", "none", "return the changed images; try larger options in the test")
    before, after = ((predicted(case.classifier(), images) == y).mean() for images in (x, made))
    expect(after <= before, f"accuracy of at most {before:.0%}", f"{after:.0%}", "go up the loss, not down")


@_of_images
def labels(case: AttackCase) -> None:
    """`y` is taken as indices and as one-hot rows, with one result, and may be missing in an untargeted attack."""
    x, y = few()
    do = "np.argmax(y, axis=1) where y.ndim == 2; see qadv.estimators.checks"
    expect_same(case.seeded(), case.seeded(x.copy(), y), "one result", do)
    if not case.make().targeted:
        made = case.seeded(x.copy())
        expect(made.shape == x.shape, f"images {x.shape} without y", made.shape, "take the network's own predictions")


@check("attack")
def finds(case: AttackCase) -> None:
    """A copy is an ART classifier, an inference has a row for each image, poisoned images are pixels with labels."""
    x = few()[0]
    made = case.seeded()
    if case.family == "extraction":
        expect_array(made, (len(x), 10), "return the classifier that was given as thieved_classifier, trained")
    elif case.family == "inference":
        rows = np.shape(made)[:1]
        expect(rows == (len(x),), f"{len(x)} rows", f"shape {np.shape(made)}", "infer something of each image")
    elif case.family == "poisoning":
        images, labels = made
        low, high = case.classifier().clip_values
        check_range(images, low, high, "np.clip(x, *self.estimator.clip_values)")
        expect(len(images) == len(labels), f"{len(images)} labels", len(labels), "return (images, labels)")
    else:
        raise NotApplicable("it makes adversarial images")


@check("attack")
def estimators(case: AttackCase) -> None:
    """It works on ART's own `PyTorchClassifier` as on `QuantizedClassifier`."""
    made = case.seeded(classifier=plain(case.classifier()))
    made = made[0] if isinstance(made, tuple) else made
    expect(len(made) == len(few()[0]), "as many images", np.shape(made), "use only what ART's estimators have")


@check("attack")
def estimator_untouched(case: AttackCase) -> None:
    """The network's weights, buffers and `requires_grad` are as before."""
    classifier = case.classifier()
    before = state(classifier)
    grads = [p.requires_grad for p in classifier.model.parameters()]
    case.seeded(classifier=classifier)
    do = "keep the network in evaluation mode; change a deep copy"
    expect_same(before, state(classifier), "the same weights", do, "the state dict")
    after = [p.requires_grad for p in classifier.model.parameters()]
    expect(grads == after, "the same requires_grad", "others", "use torch.autograd.grad(loss, x)")


@_of_images
def batches(case: AttackCase) -> None:
    """A number of images that `batch_size` does not divide is attacked to the last one."""
    if "batch_size" not in case.parameters:
        raise NotApplicable("it has no batch_size")
    x, made, whole = few()[0], case.seeded(batch_size=4), case.seeded(batch_size=8)
    do = "range(0, len(x), batch_size), the last part shorter"
    expect(made.shape == x.shape, f"images {x.shape}", made.shape, do)
    left_out = [i for i in range(4, len(x)) if (made[i] == x[i]).all() and (whole[i] != x[i]).any()]
    expect(len(left_out) < 2, "images of the last batch changed", f"{left_out} are not", "attack the last batch too")


@_of_images
def copies(case: AttackCase) -> None:
    """A deep copy attacks as the original does: `QueryCoalescer` runs one copy for each image."""
    attack = case.make()
    twin = copy.deepcopy(attack, {id(attack.estimator): attack.estimator})
    one, other = (from_seed(lambda each=each: each.generate(*few(2))) for each in (attack, twin))  # type: ignore[misc]
    expect_same(one, other, "the same images", "keep no handles, threads or open files in the attack")
