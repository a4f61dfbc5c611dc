"""How faithfully a network is copied by who may only ask it: ART's extraction attacks against it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.attacks.attack import ExtractionAttack
from art.attacks.extraction import CopycatCNN
from numpy.typing import NDArray

from qadv.checks import check_number, check_whole
from qadv.diagnostics.attacking import check_classifiers, made_by
from qadv.diagnostics.measured import Measured
from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_pair
from qadv.estimators.door import give_optimizer
from qadv.estimators.protocol import Classifier
from qadv.evaluation import predicted
from qadv.random_states import repeatable, seeded
from qadv.tables import percent, text_table

_DEFAULT = {"CopycatCNN": lambda classifier: CopycatCNN(classifier, 64, 64, nb_epochs=10)}


@dataclass(frozen=True)
class Extraction(Measured):
    """Copies of a network; prints as a table.

    Attributes:
        attacks: their names.
        nb_queries: numbers of images that the network was asked.
        fidelity: share of the images on which a copy predicts what the network does, (attacks, nb_queries).
        accuracy: of the copies, (attacks, nb_queries).
        own_accuracy: of the network.
        samples: number of images judged; none of them was asked.
    """

    attacks: tuple[str, ...]
    nb_queries: tuple[int, ...]
    fidelity: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    own_accuracy: float
    samples: int

    def __str__(self) -> str:
        found = zip(self.attacks, self.fidelity, self.accuracy, strict=True)
        rows = [
            [name, str(count), percent(same), percent(right)]
            for name, *both in found
            for count, same, right in zip(self.nb_queries, *both, strict=True)
        ]
        title = f"Extraction, {self.samples} images; accuracy of the network {percent(self.own_accuracy)}"
        return text_table(title, ["attack", "queries", "fidelity", "accuracy"], rows)


@repeatable
def extraction(
    classifier: Classifier,
    x: NDArray[Any],
    y: Any,
    untrained: Classifier,
    attacks: Mapping[str, Callable[[Classifier], Any]] | None = None,
    nb_queries: int | Sequence[int] | None = None,
    lr: float = 1e-3,
    seed: int = 0,
) -> Extraction:
    """Measures how often copies that ART's extraction attacks make agree with the network, by the number of queries.

    Args:
        classifier: an ART classifier, the victim.
        x, y: images, (N, *input_shape), that it was not trained on, and their classes, indices or one-hot: the first
            ones are asked, those after the largest number of queries are judged.
        untrained: the thief's network before each attack, best float and of new weights; it stays as it is.
        attacks: functions that return an ART attack of a classifier, by name; their `nb_stolen` is set. `None` takes
            CopycatCNN with 10 epochs.
        nb_queries: numbers of queries; `None` is half of the images.
        lr: of Adam, which trains the copies.
        seed: of what the attacks draw.

    Raises:
        InvalidInputError: no image is left to judge, or an attack does not count its queries.
    """
    x, labels = check_pair(classifier, x, y)
    check_classifiers({"classifier": classifier, "untrained": untrained})
    asked = np.atleast_1d(len(x) // 2 if nb_queries is None else np.asarray(nb_queries)).tolist()
    counts = [check_whole("nb_queries", count, most=len(x) - 1) for count in asked]
    lr, judged = check_number("lr", lr), slice(max(counts), None)
    own, attacks, predictions = predicted(classifier, x[judged]), attacks or _DEFAULT, []
    for name, make in attacks.items():
        for count in counts:
            thief = copy.deepcopy(untrained)
            give_optimizer(thief, torch.optim.Adam(thief.model.parameters(), lr=lr))
            attack = made_by(make, classifier, name, ExtractionAttack)
            if "nb_stolen" not in attack.attack_params:
                raise InvalidInputError(f"attack {name!r}: {type(attack).__name__} counts no queries; call its extract")
            attack.set_params(nb_stolen=count)
            takes_classes = getattr(attack, "sampling_strategy", None) == "adaptive"
            with seeded(seed):
                stolen = attack.extract(x[:count], labels[:count] if takes_classes else None, thieved_classifier=thief)
            predictions.append(predicted(stolen, x[judged]))
    found = np.stack(predictions).reshape(len(attacks), len(counts), -1)
    return Extraction(
        tuple(attacks),
        tuple(counts),
        (found == own).mean(axis=2),
        (found == labels[judged]).mean(axis=2),
        float((own == labels[judged]).mean()),
        len(own),
    )
