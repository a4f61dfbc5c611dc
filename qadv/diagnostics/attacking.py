"""What the diagnostics that run attacks have in common."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from art.attacks.evasion import ProjectedGradientDescent
from numpy.typing import NDArray

from qadv.attacks.families import family_of
from qadv.errors import InvalidInputError
from qadv.estimators.checks import attacks_may_leave_range, check_goal, check_images
from qadv.estimators.protocol import Classifier
from qadv.modes import check_same_classes
from qadv.random_states import seeded
from qadv.strengths import check_eps


def pgd(classifier: Classifier, eps: float) -> ProjectedGradientDescent:
    """Returns PGD in the L∞ ball of `eps`: 20 steps of `eps / 8` from one random start."""
    return ProjectedGradientDescent(
        classifier, eps=eps, eps_step=eps / 8, max_iter=20, num_random_init=1, batch_size=128, verbose=False
    )


def made_by(make: Callable[[Classifier], Any], classifier: Classifier, name: str, kind: type[Any]) -> Any:
    """Returns the attack that a function makes, called `name`, which has to be of a kind, a base class of ART's."""
    attack = make(classifier)
    if not isinstance(attack, kind):
        raise InvalidInputError(
            f"attack {name!r}: expected a function that returns ART's {kind.__name__}, got {type(attack).__name__} "
            f"from it; see: qadv list attack --all --family {family_of(kind)}"
        )
    return attack


def generate(attack: Any, x: NDArray[Any], labels: NDArray[np.int64], seed: int, name: str) -> NDArray[np.float32]:
    """Runs an ART attack, called `name`, repeatable by `seed`; leaves the global random states as they were."""
    if not hasattr(attack, "generate"):
        raise InvalidInputError(
            f"attack {name!r}: expected a function that returns an ART attack, got {type(attack).__name__} from it"
        )
    classifier = check_goal(f"attack {name!r}", attack).estimator
    one_hot = np.eye(classifier.nb_classes, dtype=np.float32)[labels]
    with seeded(seed), attacks_may_leave_range(classifier):
        adversarial = np.asarray(attack.generate(x=x, y=one_hot), dtype=np.float32)
    check_images(adversarial, classifier.input_shape, classifier.clip_values, f"images of attack {name!r}", False)
    if adversarial.shape != x.shape:
        raise InvalidInputError(f"attack {name!r}: expected images of shape {x.shape}, got {adversarial.shape}")
    return adversarial


def directions(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Returns a vector of length 1 for each of N, (N, values), float64; zero where it is zero."""
    flat = vectors.reshape(len(vectors), -1).astype(np.float64)
    largest = np.abs(flat).max(axis=1, keepdims=True)
    flat /= np.where(largest > 0, largest, 1)  # the square of a small one would be zero
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    found: NDArray[np.float64] = flat / np.where(length > 0, length, 1)
    return found


def check_strengths(eps: Any, classifier: Classifier, norm: float) -> tuple[float, ...]:
    """Returns strengths in a norm, ascending numbers or texts such as `"8/255"`, as floats."""
    clip_values, nb_values = classifier.clip_values, math.prod(classifier.input_shape)
    values = np.asarray(eps, dtype=object).ravel()
    strengths = tuple(check_eps("eps", value, clip_values, norm, nb_values, zero=True) for value in values)
    if not strengths or list(strengths) != sorted({*strengths}):
        raise InvalidInputError(f"eps: expected one or more ascending numbers of at least 0, got {list(strengths)}")
    return strengths


def check_classifiers(classifiers: Any, name: str = "classifiers") -> dict[str, Classifier]:
    """Returns classifiers by name, one or more, which have to be for the same images and classes."""
    if not isinstance(classifiers, Mapping) or not classifiers:
        raise InvalidInputError(
            f"{name}: expected one or more classifiers by name, e.g. {{'float': a, '4 bit': b}}, got "
            f"{'none' if isinstance(classifiers, Mapping) else type(classifiers).__name__}"
        )
    found = dict(classifiers)
    first, *others = found
    for other in others:
        for attribute in ("input_shape", "clip_values"):
            one, two = getattr(found[first], attribute), getattr(found[other], attribute)
            if not np.array_equal(one, two):
                raise InvalidInputError(
                    f"{name}: expected one {attribute} for all, got {one} of {first!r} and {two} of {other!r}"
                )
        check_same_classes(f"{name}: {other!r}", found[first].model, found[other].model)
    return found


def least_classes(classifiers: Sequence[Classifier]) -> int:
    """Returns the number of classes that labels may have: an ensemble that abstains has one more for that."""
    return min(int(classifier.nb_classes) for classifier in classifiers)
