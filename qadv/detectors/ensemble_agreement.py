"""`EnsembleAgreementDetector`: images on which an ensemble's members do not agree are adversarial (methods §5)."""

from typing import Any

import numpy as np
from art.defences.detector.evasion import EvasionDetector
from numpy.typing import NDArray

from qadv.errors import InvalidInputError
from qadv.estimators.checks import check_images
from qadv.estimators.ensemble import EnsembleClassifier
from qadv.estimators.ensemble_network import check_agreement, most_voted

Array = NDArray[Any]


class EnsembleAgreementDetector(EvasionDetector):
    """Flags images on which fewer than m members of an ensemble give the same class (low-bitwidth study, eq. 11).

    It has nothing to learn. Whoever knows the ensemble attacks the detector with it: the same decision as a classifier
    that ART can attack is `EnsembleClassifier.of(members, combine="vote", abstain_below=m)`.

    Args:
        classifier: an `EnsembleClassifier`; how it combines its members does not matter here.
        m: members that have to agree, 1 … members. The paper has five, and m = 4 for CIFAR-10, m = 5 for SVHN.

    Raises:
        InvalidInputError: the classifier is no ensemble, or m is no number of its members.
    """

    defence_params = ["classifier", "m"]

    def __init__(self, classifier: EnsembleClassifier, m: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.m = m
        self._check_params()

    def fit(self, x: Array, y: Array, batch_size: int = 128, nb_epochs: int = 20, **kwargs: Any) -> None:
        """Checks the images and returns: there is nothing to fit. Train the members before."""
        check_images(x, self.classifier.input_shape, self.classifier.clip_values)

    def detect(self, x: Array, batch_size: int = 128, **kwargs: Any) -> tuple[dict[str, Any], NDArray[np.bool_]]:
        """Says on which images, (N, *input_shape) in `clip_values`, the members do not agree.

        Returns:
            A report with `labels`, the class that most members give, (N,); `agreement`, how many they are, (N,); and
            `member_predictions`, (members, N); and whether each image is flagged, (N,) bool. The labels are the
            ensemble's predictions for the images that are not flagged.
        """
        classes = self.classifier.member_predictions(x, batch_size=batch_size)
        labels, agreement = most_voted(classes)
        return {"labels": labels, "agreement": agreement, "member_predictions": classes}, agreement < self.m

    def _check_params(self) -> None:
        if not isinstance(self.classifier, EnsembleClassifier):
            raise InvalidInputError(
                f"classifier: expected an EnsembleClassifier, got {type(self.classifier).__name__}; make one with "
                "EnsembleClassifier.of([classifier, classifier, ...])"
            )
        self.m = check_agreement(self.m, self.classifier.model.nb_members)

    def __repr__(self) -> str:
        return f"EnsembleAgreementDetector(classifier={self.classifier!r}, m={self.m})"
