"""`AutoAttack`: the official one, as an ART attack (Croce & Hein 2020, "Reliable evaluation of adversarial robustness
with an ensemble of diverse parameter-free attacks", arXiv:2003.01690)."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from art.attacks import EvasionAttack
from art.estimators import BaseEstimator
from art.estimators.classification import ClassifierMixin, PyTorchClassifier
from numpy.typing import NDArray
from pyautoattack.checks import check_randomized, check_range_output

import qadv
from qadv.attacks import Seed, check_option
from qadv.checks import check_choice, check_fields, check_flag, check_whole
from qadv.errors import InvalidInputError, MaskedGradientWarning
from qadv.estimators import check_images, check_labels
from qadv.units import Length, Share
from qadv_autoattack.abstention import abstains, check_no_abstention, nb_answers
from qadv_autoattack.flags import Flags
from qadv_autoattack.norms import OFFICIAL
from qadv_autoattack.part import Eps, Norm, OfficialPart
from qadv_autoattack.versions import PARTS, VERSIONS, part_options, parts_for

_SQUARE_ALONE = 0.002  # the official code's threshold


class AutoAttack(EvasionAttack):
    """Four attacks one after the other, each on the images that held out so far: the worst case, image by image.

        attack = AutoAttack(classifier, eps=8 / 255, seed=0)
        adversarial = attack.generate(x, y)
        print(attack.robust_accuracy)  # of 'clean', and after 'apgd-ce', 'apgd-t', 'fab-t', 'square'

    The loops are the authors' own (`pyautoattack`): with the same seed and batch size the images are those that their
    code finds on the bare network. Images that are misclassified as they are stay as they are.

    Versions: "standard" is APGD-CE, APGD-T, FAB-T, Square, without anything to tune. "plus" has APGD-CE, APGD-DLR, FAB
    of five runs each, Square, APGD-T, FAB-T. "rand", for networks that draw at random, has APGD-CE and APGD-DLR with
    gradients averaged over 20 passes.

    **Reading:** of networks with few classes the official code warns, and fails. Here the targets are all other classes
    where there are fewer than nine; with three classes APGD-DLR takes the place of APGD-T, with two it is left out. The
    official check for dynamic defenses is left out, since it switches tracers and debuggers off.

    Args:
        estimator: an ART `PyTorchClassifier` with `clip_values`, e.g. a `QuantizedClassifier`.
        norm: inf, 2 or 1, as in ART.
        eps: radius of the ball, in the units of `clip_values`, above 0; default 8/255 of their range.
        version: "standard", "plus" or "rand".
        attacks_to_run: parts by their official names, "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square", in the
            order in which they run; `None` for those of the version. Their settings are the version's.
        max_iter: steps of APGD and FAB. With less than 100 it is no AutoAttack any more, but a quick look.
        nb_queries: of Square, for each image. The same holds below 5,000.
        batch_size: images attacked together. Random draws depend on it, as in the official code.
        seed: seeds each batch of each part, as in the official code; `None` draws one from numpy's global state.
        abstention_breaks: of an `EnsembleClassifier` that abstains: whether "no prediction" counts as broken. `False`
            counts wrong answers only, as `qadv.audit` does, and goes for them.
        verbose: show progress.

    Attributes:
        robust_accuracy: share of all images that are classified correctly, "clean" and after each part that has run.
            Parts that no image was left for are missing. An abstention is counted as `abstention_breaks` says.
        broken_by: for each image the part that broke it, "clean" if it was misclassified before, "" if it holds; (N,).
        robust: where `broken_by` is "", (N,) bool.
        partial: the images as far as they were found, also after an interrupted `generate`.
        flags: signs that the figure is not to be trusted, each warned of as well: Square breaks what gradients do not,
            gradients that are exactly zero, random or saturated outputs, parts that were left out.

    Raises:
        InvalidInputError: a parameter is off, or a part does not exist for that many classes or such images.
    """

    attack_params = [
        *EvasionAttack.attack_params,
        "norm",
        "eps",
        "version",
        "attacks_to_run",
        "max_iter",
        "nb_queries",
        "batch_size",
        "seed",
        "abstention_breaks",
        "verbose",
    ]
    _estimator_requirements: tuple[type, ...] = (BaseEstimator, ClassifierMixin, PyTorchClassifier)

    robust_accuracy: dict[str, float]
    broken_by: NDArray[np.str_]
    partial: NDArray[np.float32]
    flags: Flags

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: float | str = np.inf,
        eps: Length = Share(8 / 255),
        version: str = "standard",
        attacks_to_run: Sequence[str] | None = None,
        max_iter: int = 100,
        nb_queries: int = 5000,
        batch_size: int = 250,
        seed: int | None = None,
        abstention_breaks: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__(estimator=estimator)
        self.norm = norm
        self.eps = eps
        self.version = version
        self.attacks_to_run = attacks_to_run
        self.max_iter = max_iter
        self.nb_queries = nb_queries
        self.batch_size = batch_size
        self.seed = seed
        self.abstention_breaks = abstention_breaks
        self.verbose = verbose
        self._check_params()

    @property
    def robust(self) -> NDArray[np.bool_]:
        return np.asarray(self.broken_by == "", dtype=np.bool_)

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[np.float32]:
        """Returns images, adversarial where one was found, (N, *input_shape) float32 within `clip_values`.

        Args:
            x: images, (N, *input_shape), float, within `clip_values`.
            y: labels, indices (N,) or one-hot (N, nb_classes). `None` takes the network's own predictions.

        Raises:
            InvalidInputError: images or labels are off, or there is an argument besides.

        Warns:
            MaskedGradientWarning: some gradient is exactly zero, or Square breaks what gradients do not.
            UserWarning: another of `flags`.
        """
        if kwargs:
            raise InvalidInputError(f"AutoAttack.generate takes x and y; got also {', '.join(kwargs)}")
        estimator = self.estimator
        x = check_images(x, estimator.input_shape, estimator.clip_values).astype(np.float32)
        answers = self._answers(x)
        labels = answers if y is None else check_labels(y, len(x), estimator.nb_classes)
        if not self.abstention_breaks:
            check_no_abstention(estimator, labels)
        seed = int(np.random.randint(2**31)) if self.seed is None else self.seed
        self.flags = Flags()
        self.partial = x.copy()
        self.broken_by = np.where(self._wrong(answers, labels), "clean", "").astype(object)
        self.robust_accuracy = {"clean": float(self.robust.mean())}
        self._check_outputs(x, labels)
        try:
            for name, part in self._parts(seed):
                left = np.flatnonzero(self.robust)
                if not len(left):
                    break
                try:
                    part.generate(x[left], labels[left])
                finally:  # batches that were finished before an interruption count
                    self._take(name, part, left, labels[left])
                self.robust_accuracy[name] = float(self.robust.mean())
        finally:
            self._check_square()
            for flag in self.flags:
                masked = "gradient" in flag
                warnings.warn(f"AutoAttack: {flag}", MaskedGradientWarning if masked else UserWarning, stacklevel=2)
        return self.partial

    def _take(self, name: str, part: OfficialPart, left: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        """Keeps the images that a part has broken; `left` are the indices of those it was given."""
        for flag in part.flags:
            self.flags.warning(f"{name}: {flag}")
        if not hasattr(part, "partial"):
            return
        broken = self._wrong(self._answers(part.partial), labels)
        self.partial[left[broken]] = part.partial[broken]
        self.broken_by[left[broken]] = name

    def _answers(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Returns what the estimator itself predicts, (N,)."""
        outputs: NDArray[Any] = self.estimator.predict(x, batch_size=self.batch_size)
        return np.asarray(outputs.argmax(axis=1), dtype=np.int64)

    def _wrong(self, answers: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        wrong = answers != labels
        if abstains(self.estimator) and not self.abstention_breaks:
            wrong &= answers != self.estimator.nb_classes - 1
        return np.asarray(wrong, dtype=np.bool_)

    def _parts(self, seed: int | None) -> list[tuple[str, OfficialPart]]:
        """Returns the parts to run by name, new ones."""
        names = self.attacks_to_run
        if names is None:
            names = parts_for(self.version, nb_answers(self.estimator, self.abstention_breaks))
        options = part_options(self.version, OFFICIAL[self.norm])
        for name in names:
            options[name] |= {
                "norm": self.norm,
                "eps": self.eps,
                "max_iter": self.nb_queries if name == "square" else self.max_iter,
                "batch_size": self.batch_size,
                "seed": seed,
                "abstention_breaks": self.abstention_breaks,
                "verbose": self.verbose,
            }
        return [(name, PARTS[name](self.estimator, **options[name])) for name in names]

    def _check_outputs(self, x: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """The official checks of the first batch."""
        if self.attacks_to_run is None:
            answers = nb_answers(self.estimator, self.abstention_breaks)
            if missing := set(VERSIONS[self.version]) - set(parts_for(self.version, answers)):
                self.flags.warning(f"{', '.join(sorted(missing))} left out, the network has only {answers} classes")
        model = qadv.as_module(self.estimator)
        low, high = self.estimator.clip_values
        unit = torch.from_numpy((x[: self.batch_size] - low) / (high - low)).float().to(self.estimator.device)
        if self.version != "rand":
            targets = torch.from_numpy(labels[: self.batch_size]).to(self.estimator.device)
            check_randomized(model, unit, targets, logger=self.flags)
        check_range_output(model, unit, logger=self.flags)

    def _check_square(self) -> None:
        """The official check: a black-box attack that does better than gradients says that these are masked."""
        others = [share for name, share in self.robust_accuracy.items() if name != "square"]
        found = min(others) - self.robust_accuracy.get("square", 1.0)
        if len(others) > 1 and found > _SQUARE_ALONE:
            self.flags.warning(
                f"square, which uses no gradient, breaks another {found:.1%} of all images: the network may mask its "
                "gradients, and the figure be too high; see qadv.audit"
            )

    def _check_params(self) -> None:
        self.norm = check_option("norm", self.norm, Norm, self)
        self.eps = check_option("eps", self.eps, Eps, self)
        check_choice("version", self.version, VERSIONS)
        names = self.attacks_to_run
        if names is not None and (not isinstance(names, list | tuple) or not names or set(names) - set(PARTS)):
            raise InvalidInputError(f"attacks_to_run: expected names among {', '.join(PARTS)}, got {names!r}")
        check_fields(self, check_whole, "max_iter", "nb_queries", "batch_size")
        check_fields(self, check_flag, "abstention_breaks", "verbose")
        self.seed = check_option("seed", self.seed, Seed, self)
        self._parts(self.seed)  # what the network can't be attacked with shows now
