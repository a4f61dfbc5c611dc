"""Cells that attack: on the network itself, or with the images of another one."""

import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy.special import softmax

from qadv.benchmark.cells import FILES, Finished, digest
from qadv.benchmark.given import Given
from qadv.benchmark.network_cells import load_network
from qadv.benchmark.signatures import arguments
from qadv.benchmark.specs import AttackCellSpec, CleanSpec, ImagesSpec, TransferSpec
from qadv.benchmark.study import AttackSpec
from qadv.diagnostics.attacking import generate
from qadv.diagnostics.audit.cost import Cost
from qadv.errors import InvalidInputError, QadvError
from qadv.estimators.fingerprint import fingerprint
from qadv.estimators.protocol import Classifier
from qadv.estimators.query_coalescer import QueryCoalescer
from qadv.evaluation import Outcome, norms
from qadv.files import InMemory, read_tensors
from qadv.postprocessors.softmax import with_softmax
from qadv.registry import load

IMAGES = FILES["attack"]
_SHOWN = 8


def test_images(given: Given, wanted: ImagesSpec) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns the images and labels that a spec attacks."""
    return given.images(wanted).take("test", wanted.nb_test)


def clean_cell(spec: CleanSpec, needed: Mapping[str, Finished], given: Given) -> Finished:
    """Records which images are classified correctly without an attack, and the classes predicted."""
    x, y = test_images(given, spec.images)
    classes = load_network(needed[spec.network]).predict(x).argmax(1)
    right = classes == y
    return Finished({"accuracy": right.mean(), "right": right, "classes": classes})


def attack_cell(spec: AttackCellSpec, needed: Mapping[str, Finished], given: Given) -> Finished:
    """Attacks a network. Its file holds the images, its record, image by image, what became of them."""
    classifier = load_network(needed[spec.network])
    x, y = test_images(given, spec.images)
    answers = classifier.predict(x)
    before, sure = answers.argmax(1), [softmax(answers[:_SHOWN], axis=1).max(1)]
    attack = build_attack(spec.attack, spec.seed, classifier)
    cost, started = Cost(), time.perf_counter()
    with cost.counted(classifier.model):
        adversarial = generate(attack, x, y, spec.seed, spec.attack.attack)
    if (most := spec.attack.max_l2) is not None:
        far = norms(adversarial - x, 2) > most
        adversarial[far] = x[far]
    took = {"seconds": time.perf_counter() - started, "cost": cost.to_dict()}
    names = given.images(spec.images).classes
    shown = torch.from_numpy(np.ascontiguousarray(x[:_SHOWN]))  # for a report's examples: the results are all it has
    content = save({"images": torch.from_numpy(adversarial), "clean": shown})
    answers = classifier.predict(adversarial[:_SHOWN])
    sure.append((answers if spec.attack.probabilities else softmax(answers, axis=1)).max(1))
    said = {
        "sure": np.stack(sure, axis=1).round(4),
        "labels": y,
        "clean_classes": before,
        "class_names": list(names),
        "made_on": fingerprint(classifier),
    }
    return Finished(_outcome(classifier, x, y, before == y, adversarial) | said | took, {IMAGES: content})


def transfer_cell(spec: TransferSpec, needed: Mapping[str, Finished], given: Given) -> Finished:
    """Gives the images made on one network to another, which is the same one only where the study says `itself`."""
    made = needed[spec.made]
    classifier = load_network(needed[spec.network])
    if made.record["made_on"] == fingerprint(classifier) and not spec.itself:
        raise InvalidInputError(
            "the images were made on a network with the very weights of this one, so that nothing is transferred: "
            "train a second one with another start_seed, or say itself = true"
        )
    x, y = test_images(given, ImagesSpec.model_validate(made.record["spec"]["images"]))
    clean = classifier.predict(x).argmax(1) == y
    return Finished(_outcome(classifier, x, y, clean, adversarial_images(made)))


def adversarial_images(finished: Finished) -> NDArray[np.float32]:
    """Returns the images of a finished attack, (N, *input_shape)."""
    file = InMemory(f"{IMAGES} of cell {digest(finished.record['spec'])}", finished.files[IMAGES])
    images: NDArray[np.float32] = read_tensors(file)[0]["images"].numpy()
    return images


def build_attack(spec: AttackSpec, seed: int, classifier: Classifier, eps: float | None = None) -> Any:
    """Returns the attack of a spec, `eps` in place of its own."""
    options = spec.options | ({} if eps is None else {"eps": eps})
    if spec.probabilities:
        classifier.postprocessing_defences = with_softmax(classifier.postprocessing_defences)
    attack = made_attack(spec.attack, options, classifier)
    return QueryCoalescer(attack, seed=seed, verbose=False) if spec.coalesce else attack


def made_attack(name: str, options: Mapping[str, Any], classifier: Classifier, verbose: bool = False) -> Any:
    """Returns an attack by name, untargeted unless said (ART's Boundary is not), its progress shown if `verbose`."""
    target = load("attack", name)
    taken = arguments(target) or ()
    said = {option: value for option, value in (("verbose", verbose), ("targeted", False)) if option in taken}
    try:
        attack = target(classifier, **{**said, **options})
    except QadvError:
        raise
    except (TypeError, ValueError) as error:  # what ART's attacks raise at options
        raise InvalidInputError(f"attack {name}: {error}") from error
    eps: Any = getattr(attack, "eps", None)
    step: Any = getattr(attack, "eps_step", None)
    numbers = isinstance(eps, float) and isinstance(step, float)
    if "eps_step" not in options and hasattr(attack, "max_iter") and numbers and step > eps:
        warnings.warn(
            f"attack {name}: its own eps_step, {step:g}, is larger than eps, {eps:.3g}, so that it searches the "
            "corners of the ball alone: give eps_step, a quarter of eps, say",
            stacklevel=2,
        )
    return attack


def _outcome(classifier: Classifier, x: Any, y: Any, clean: Any, adversarial: Any) -> dict[str, Any]:
    outcome = Outcome.of(classifier, x, y, adversarial, clean)
    return {
        "accuracy": outcome.right.mean(),
        "clean_accuracy": clean.mean(),
        "classes": outcome.classes,
        "right": outcome.right,
        "clean_right": clean,
        "l2": outcome.distance(2).round(6),
        "linf": outcome.distance(np.inf).round(6),
    }
