"""Cells that attack: on the network itself, or with the images of another one."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy.special import softmax

from qadv.benchmark.cells import FILES, Finished, digest
from qadv.benchmark.given import Given
from qadv.benchmark.made_attacks import build_attack
from qadv.benchmark.network_cells import load_network
from qadv.benchmark.specs import AttackCellSpec, CleanSpec, ImagesSpec, TransferSpec
from qadv.diagnostics.attacking import generate
from qadv.diagnostics.audit.cost import Cost
from qadv.errors import InvalidInputError
from qadv.estimators.fingerprint import fingerprint
from qadv.estimators.protocol import Classifier
from qadv.evaluation import Outcome, norms
from qadv.files import InMemory, read_tensors

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
