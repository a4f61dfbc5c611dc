"""Whether a network tells which images it was trained on: ART's membership inference attacks against it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from art.attacks.attack import MembershipInferenceAttack
from art.attacks.inference.membership_inference import MembershipInferenceBlackBox, MembershipInferenceBlackBoxRuleBased
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from qadv.diagnostics.attacking import made_by
from qadv.diagnostics.measured import Measured
from qadv.errors import InvalidInputError
from qadv.estimators.checks import attacks_may_leave_range, check_pair
from qadv.estimators.protocol import Classifier
from qadv.evaluation import predicted
from qadv.random_states import repeatable, seeded
from qadv.tables import number, percent, text_table

_DEFAULT = {
    "black box": lambda classifier: MembershipInferenceBlackBox(classifier, attack_model_type="rf"),
    "rule": MembershipInferenceBlackBoxRuleBased,
}


@dataclass(frozen=True)
class MembershipInference(Measured):
    """What attacks find out about who was in the training; prints as a table.

    Attributes:
        attacks: their names.
        advantage: share of the members that are taken for members, less that of the others, (attacks,); 0 is chance.
        auc: chance that a member is held for likelier a member than another image, (attacks,); 0.5 is chance.
        members, others: the network's accuracy on the images judged.
        samples: number of images judged, of each kind.
    """

    attacks: tuple[str, ...]
    advantage: NDArray[np.float64]
    auc: NDArray[np.float64]
    members: float
    others: float
    samples: int

    def __str__(self) -> str:
        known = f"accuracy {percent(self.members)} of members, {percent(self.others)} of others"
        rows = zip(self.attacks, map(percent, self.advantage), map(number, self.auc), strict=True)
        title = f"Membership inference, {self.samples} images of each kind; {known}"
        return text_table(title, ["attack", "advantage", "AUC"], map(list, rows))


@repeatable
def membership_inference(
    classifier: Classifier,
    x: NDArray[Any],
    y: Any,
    x_train: NDArray[Any],
    y_train: Any,
    attacks: Mapping[str, Callable[[Classifier], Any]] | None = None,
    infer: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> MembershipInference:
    """Measures what ART's membership inference attacks find out, on as many members as others.

    The first half of both is told to attacks that are fitted or calibrated; all are judged on the second half.

    Args:
        classifier: an ART classifier.
        x, y: images that it was not trained on, (N, *input_shape), and their classes, indices or one-hot.
        x_train, y_train: the members: images that it was trained on.
        attacks: functions that return an ART attack of a classifier, by name; `None` takes a random forest on the
            network's answers, and the rule "a member is classified correctly".
        infer: arguments of the attacks' `infer` and calibration, e.g. `max_iter` of HopSkipJump for
            `LabelOnlyDecisionBoundary`.
        seed: of what the attacks draw.

    Raises:
        InvalidInputError: there are fewer than 4 images of a kind, or an attack infers something else.
    """
    x, y = check_pair(classifier, x, y)
    x_train, y_train = check_pair(classifier, x_train, y_train, names=("x_train", "y_train"))
    if (half := min(len(x), len(x_train)) // 2) < 2:
        raise InvalidInputError(f"expected 4 members and 4 other images at least, got {len(x_train)} and {len(x)}")
    told, judged = slice(half), slice(half, 2 * half)
    is_member, calls = np.repeat([1, 0], half), dict(infer or {})
    images, labels = np.concatenate([x_train[judged], x[judged]]), np.concatenate([y_train[judged], y[judged]])
    one_hot = np.eye(classifier.nb_classes, dtype=np.float32)
    attacks, sure = attacks or _DEFAULT, []
    for name, make in attacks.items():
        with seeded(seed), attacks_may_leave_range(classifier):
            attack = made_by(make, classifier, name, MembershipInferenceAttack)
            known = x_train[told], one_hot[y_train[told]], x[told], one_hot[y[told]]
            if ranks := hasattr(attack, "fit"):
                attack.fit(*known)
            elif ranks := hasattr(attack, "calibrate_distance_threshold"):
                attack.calibrate_distance_threshold(*known, **calls)
                attack.threshold_bins = []  # else ART's probabilities do not rise with the distance
            # a rule knows yes and no, and what ART makes of that for two classes is wrong
            found = np.asarray(attack.infer(images, one_hot[labels], probabilities=ranks, **calls))
            sure.append(found.reshape(2 * half, -1)[:, -1])
    taken = np.stack(sure) > 0.5
    right = predicted(classifier, images) == labels
    return MembershipInference(
        tuple(attacks),
        taken[:, :half].mean(axis=1) - taken[:, half:].mean(axis=1),
        np.array([roc_auc_score(is_member, each) for each in sure]),
        float(right[:half].mean()),
        float(right[half:].mean()),
        half,
    )
