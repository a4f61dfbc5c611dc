"""The same network, the same images, the same question: an answer does not depend on the units of the pixels.

`CASES` has every component with an ε, a step or a fill value in it, `WITHOUT` those with none, and a test holds both
against the registry.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod

import qadv
from qadv.diagnostics.audit import run as audit_run
from qadv.diagnostics.audit.checks import black_box
from qadv.diagnostics.audit.settings import FEW_STEPS
from qadv.registry import default_registry
from qadv.testing.materials import data, digits_classifier
from qadv.trainers.adversary import ATTACKS
from qadv.trainers.augment import AUGMENTATIONS
from qadv.units import Share

UNIT = (0.0, 1.0)
RANGES = [(-1.0, 1.0), (0.0, 255.0)]
NETWORKS = {"float": ("float", "float"), "4 bit": ("int:4", "relu6:4")}
FEW = {"batch_size": 64, "seed": 0, "verbose": False}
TRAINED = {"lr": 0.005, "seed": 0, "verbose": False}
SMALL_AUDIT = replace(FEW_STEPS, spsa_steps=3, spsa_samples=4, n_attack_steps=3, n_attack_samples=4)


class Setting(NamedTuple):
    """A trained network that takes its pixels in some range, and images in it."""

    classifier: Any
    x: np.ndarray
    y: np.ndarray
    low: float
    width: float

    def in_unit_range(self, images: np.ndarray) -> np.ndarray:
        return (images - self.low) / self.width

    def given(self, options: dict[str, Any]) -> dict[str, Any]:
        """Shares of the range as a user gives them, who counts in the units of the images."""
        return {name: self.length(value) for name, value in options.items()}

    def length(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.length(entry) for entry in value]
        return value.of_range * self.width if isinstance(value, Share) else value


@dataclass
class Outcome:
    """What came of it: images in [0, 1], one class or success for each of several images, figures."""

    images: np.ndarray | None = None
    of_images: np.ndarray | None = None
    figures: np.ndarray | None = None


def setting(network: str, limits: tuple[float, float], nb_images: int = 12, **options: Any) -> Setting:
    low, width = limits[0], limits[1] - limits[0]
    classifier = digits_classifier(*NETWORKS[network], clip_values=limits, preprocessing=(low, width), **options)
    x = (low + width * data().x_test[:nb_images]).astype(np.float32)
    return Setting(classifier, x, data().y_test[:nb_images], low, width)


def attacked(name: str, network: str, limits: tuple[float, float], **options: Any) -> Outcome:
    here = setting(network, limits)
    found = qadv.create("attack", name, here.classifier, **FEW, **here.given(options)).generate(here.x, here.y)
    return Outcome(here.in_unit_range(found), here.classifier.predict(found).argmax(1) != here.y)


def trained(name: str, network: str, limits: tuple[float, float], **options: Any) -> Outcome:
    """Three steps; the images are what the network was trained on, in the order of the passes."""
    here = setting(network, limits, nb_images=100)
    if isinstance(options.get("adversary"), dict):
        options["adversary"] = qadv.Adversary(**here.given(options["adversary"]))
    trainer = qadv.create("trainer", name, here.classifier, **TRAINED, **here.given(options))
    seen = []

    def note(module: Any, inputs: Any) -> None:
        if module.training:
            seen.append(inputs[0].detach().numpy().copy())

    handle = here.classifier.model.register_forward_pre_hook(note)
    x = (here.low + here.width * data().x_train[:48]).astype(np.float32)
    trainer.fit(x, data().y_train[:48], batch_size=16, nb_epochs=1)
    handle.remove()
    return Outcome(np.concatenate(seen), here.classifier.predict(here.x).argmax(1))


def preprocessed(name: str, network: str, limits: tuple[float, float], **options: Any) -> Outcome:
    range_ = {} if name == "median-smoothing" else {"clip_values": limits}
    made = qadv.create("preprocessor", name, **range_, **options)
    here = setting(network, limits, nb_images=100, preprocessing_defences=[made])
    return Outcome(here.in_unit_range(made(here.x)[0]), here.classifier.predict(here.x).argmax(1))


def calibrated(name: str, network: str, limits: tuple[float, float], **options: Any) -> Outcome:
    here = setting("float", limits, nb_images=100)
    made = qadv.create("transformer", name, here.classifier, **options)(here.x)
    return Outcome(of_images=made.predict(here.x).argmax(1))


def audited(name: str, network: str, limits: tuple[float, float], **options: Any) -> Outcome:
    here = setting(network, limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_run, "QUICK", SMALL_AUDIT)
        checks = [check for check in audit_run.numbered_checks() if check.number != 11]  # the graph's
        patch.setattr(audit_run, "numbered_checks", lambda: checks)
        worst = qadv.audit(here.classifier, here.x, here.y, **here.given(options), verbose=False).worst_case
    return Outcome(here.in_unit_range(worst.adversarial), worst.robust)


def measured(name: str, network: str, limits: tuple[float, float], **options: Any) -> Outcome:
    here = setting(network, limits, nb_images=40)
    function = qadv.load("diagnostic", name)
    asked = inspect.signature(function).parameters
    given = here.given(options)
    if "x_adversarial" in asked:
        given["x_adversarial"] = here.x + here.width * np.float32(0.1) * (np.indices(here.x.shape)[3] % 2 - 0.5)
        given["x_adversarial"] = np.clip(given["x_adversarial"], here.low, here.low + here.width).astype(np.float32)
    if "attacks" in asked:
        given["attacks"] = {"FGSM": lambda classifier: FastGradientMethod(classifier, eps=0.1 * here.width)}
    if "classifiers" in asked:
        given["classifiers"] = {each: setting(each, limits).classifier for each in NETWORKS}
    else:
        given["classifier"] = here.classifier
    found = function(**given, x=here.x, **({"y": here.y} if "y" in asked else {}))
    return Outcome(figures=np.concatenate([np.ravel(getattr(found, figure)) for figure in FIGURES[name]]))


FIGURES = {
    "accuracy-curve": ["accuracy", "worst_case"],
    "accuracy-by-distance": ["accuracy"],
    "amplification-by-eps": ["distance"],
    "error-amplification": ["distance"],
    "gradient-similarity": ["similarity"],
    "transfer-matrix": ["accuracy"],
}
CURVE = [Share(0.0), Share(0.05), Share(0.1)]
STEPS = {"max_iter": 5, "nb_samples": 8}

Run = Callable[..., Outcome]
# a number of a share is given in the units of the images, what is not named is left at its default
CASES: dict[str, dict[str, tuple[Run, list[dict[str, Any]]]]] = {
    "attack": {
        "spsa": (attacked, [STEPS, {**STEPS, "eps": Share(0.2)}, {**STEPS, "delta": Share(0.05), "early_stop": True}]),
        "n-attack": (attacked, [STEPS, {**STEPS, "eps": Share(0.3)}, {**STEPS, "norm": 2, "eps": Share(1.0)}]),
        "square": (attacked, [{"max_iter": 20}, {"max_iter": 20, "eps": Share(0.2)}]),
        "ddn": (attacked, [{"max_iter": 20}, {"max_iter": 20, "init_eps": Share(0.5), "quantize": True}]),
        "r-fgsm": (attacked, [{}, {"eps": Share(0.2)}, {"eps": Share(0.2), "random_eps": Share(0.05)}]),
        "uniform-noise": (attacked, [{}, {"eps": Share(0.3), "max_iter": 3}]),
        "gaussian-noise": (attacked, [{}, {"std": Share(0.3), "max_iter": 3}]),
    },
    "trainer": {
        "dq": (
            trained,
            [
                *({"adversary": attack, "augment": "crop-flip"} for attack in ATTACKS),
                {"adversary": {"attack": "pgd", "eps": Share(0.1), "eps_step": Share(0.03), "sampled": True}},
                {"adversary": {"attack": "pgd", "eps_step": Share(0.01)}},
            ],
        ),
        "eq": (trained, [{"max_iter": 3}, {"max_iter": 3, "eps": Share(0.1)}]),
        "adversarial": (trained, [{"max_iter": 3}, {"eps": Share(0.1), "ratio": 0.5}]),
        "feedback": (
            trained,
            [
                {"rounds": 1, "nb_directions": 6, "nb_nearest": 3, "samples_per_class": (1, 2, 3), **distance}
                for distance in ({}, {"max_distance": Share(3.0)})
            ],
        ),
    },
    "preprocessor": {
        "bit-depth": (preprocessed, [{"bit_depth": 2}]),
        "median-smoothing": (preprocessed, [{}]),
        "mu-law-companding": (preprocessed, [{}, {"bits": 3, "expand": True}]),
    },
    "transformer": {"ptq": (calibrated, [{}])},
    "diagnostic": {
        "audit": (audited, [{"eps": Share(0.1)}]),
        "accuracy-curve": (measured, [{"eps": [Share(1e-6), *CURVE[1:]]}]),  # the first is of the size of rounding
        "accuracy-by-distance": (
            measured,
            [{"eps": CURVE, "attack": partial(qadv.DDN, max_iter=20, seed=0, verbose=False)}],
        ),
        "amplification-by-eps": (measured, [{"eps": CURVE}]),
        "error-amplification": (measured, [{}]),
        "gradient-similarity": (measured, [{}]),
        "transfer-matrix": (measured, [{}]),
    },
}
WITHOUT = {
    "attack": {"art"},  # ART's own, whose numbers are in the units of the images, defaults too
    "transformer": {"mu-law"},  # maps weights
    "diagnostic": {  # no ε, no step
        "backdoor", "ensemble-agreement", "error-split", "extraction", "inversion", "logit-statistics",
        "membership-inference", "source-agreement", "value-shift", "weight-error",
    },
    "detector": {"ensemble-agreement"},  # counts votes
    "postprocessor": {"softmax"},  # no pixel
}  # fmt: skip
LENGTHS = {"eps", "eps_step", "init_eps", "random_eps", "std", "delta", "learning_rate", "max_distance"}
NO_PIXELS = {("n-attack", "learning_rate")}  # of a mean in the space of atanh


@cache
def outcome(kind: str, name: str, index: int, network: str, limits: tuple[float, float]) -> Outcome:
    run, options = CASES[kind][name]
    return run(name, network, limits, **options[index])


@pytest.mark.parametrize("limits", RANGES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("kind", "name", "index"),
    [(kind, name, i) for kind, of in CASES.items() for name, (_, options) in of.items() for i in range(len(options))],
)
def test_the_answer_does_not_depend_on_the_units_of_the_pixels(kind, name, index, network, limits):
    expected, found = (outcome(kind, name, index, network, each) for each in (UNIT, limits))
    if network == "float":
        for one, other in ((expected.images, found.images), (expected.figures, found.figures)):
            if one is not None:
                np.testing.assert_allclose(other, one, atol=1e-3, rtol=0)
        if expected.of_images is not None:
            np.testing.assert_array_equal(found.of_images, expected.of_images)
    else:
        if expected.of_images is not None:
            assert (found.of_images == expected.of_images).mean() >= 0.95
        if expected.figures is not None:
            np.testing.assert_allclose(found.figures, expected.figures, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "kind", ["attack", "detector", "diagnostic", "postprocessor", "preprocessor", "trainer", "transformer"]
)
def test_every_component_has_a_case_or_no_length(kind):
    own = {entry.component.name for entry in default_registry().entries(kind) if entry.distribution == "qadv"}
    assert own == {*CASES.get(kind, {}), *WITHOUT.get(kind, set())}


def test_every_augmentation_is_for_any_range():
    x = torch.rand((6, 2, 8, 8), generator=torch.Generator().manual_seed(0))
    for augment in AUGMENTATIONS.values():
        found = []
        for low, width in ((0, 1), (-1, 2), (0, 255)):
            torch.manual_seed(0)
            found.append((augment(low + width * x, black=low) - low) / width)
        for other in found[1:]:
            torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_the_lengths_of_the_audits_black_box_attacks_are_shares_of_the_range(eps, monkeypatch, only_checks):
    made = []
    monkeypatch.setattr(audit_run, "QUICK", SMALL_AUDIT)
    only_checks(lambda number: number == 3)
    monkeypatch.setattr(black_box, "SPSA", lambda *args, **options: made.append(options) or qadv.SPSA(*args, **options))
    for limits in (UNIT, *RANGES):
        here = setting("float", limits)
        qadv.audit(here.classifier, here.x, here.y, eps=eps * here.width, verbose=False)
        made[-1] = [made[-1][name] / here.width for name in ("eps", "delta", "learning_rate")]
    assert len(made) == 3
    np.testing.assert_allclose(made, [made[0]] * 3, rtol=1e-6)


@pytest.mark.parametrize("kind", CASES)
def test_the_default_of_a_length_is_a_share(kind):
    numbers = [
        f"{name}: {each.name}={each.default}"
        for name in CASES[kind]
        for each in inspect.signature(qadv.load(kind, name)).parameters.values()
        if each.name in LENGTHS and isinstance(each.default, int | float) and (name, each.name) not in NO_PIXELS
    ]
    assert numbers == []
