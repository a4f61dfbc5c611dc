"""What the checks share: the images, the attacks run so far, and which images still hold out."""

import time
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import AutoProjectedGradientDescent, FastGradientMethod
from tqdm.auto import tqdm

from qadv.diagnostics.audit.ascent import Ascent, ascend
from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.losses import Loss, cross_entropy, dlr, negative_margin
from qadv.diagnostics.audit.result import AttackRecord, WorstCase
from qadv.diagnostics.audit.settings import Settings
from qadv.diagnostics.audit.target import Flags, Images, Labels, Target
from qadv.errors import AttackError, MaskedGradientWarning
from qadv.estimators.checks import attacks_may_leave_range
from qadv.random_states import seeded

Attack = Callable[[Images, Labels], Any]


class Case:
    """One classifier under audit.

    Args:
        target: the classifier.
        x, y: images and labels.
        eps: radius of the ball, L∞.
        settings: budgets.
        seed: decides everything random.
        sources: other classifiers, by name, whose adversarial images are tried.
        adaptive: makes an ART attack from the classifier, or `None`.
        cost: where passes are counted.
        progress: a bar that is told of each attack.

    Attributes:
        clean: which images are classified correctly, (N,).
    """

    def __init__(
        self,
        target: Target,
        x: Images,
        y: Labels,
        *,
        eps: float,
        settings: Settings,
        seed: int,
        sources: Mapping[str, Target],
        adaptive: Callable[[Any], Any] | None,
        cost: Cost,
        progress: "tqdm[Any]",
    ) -> None:
        self.target = target
        self.x, self.y, self.eps = x, y, eps
        self.settings, self.seed = settings, seed
        self.sources, self.adaptive = sources, adaptive
        self.cost, self.progress = cost, progress
        self.clean: Flags = ~target.broken(x, y)
        self.attacks: list[AttackRecord] = []
        self._broken_by = np.where(self.clean, "", "clean").astype(object)
        self._adversarial = x.copy()

    @property
    def width(self) -> float:
        """The range of the pixels: a ball of this radius is no bound."""
        return self.target.high - self.target.low

    @property
    def allowance(self) -> int:
        """How many images one point is, and at least one: fewer than a hundred images can't tell less."""
        return max(1, len(self.x) // 100)

    @property
    def half_allowance(self) -> int:
        """How many images half a point is, and at least one."""
        return max(1, len(self.x) // 200)

    @property
    def survivors(self) -> Flags:
        """Images that are classified correctly and that no attack has broken so far, (N,)."""
        return np.asarray(self._broken_by == "", dtype=bool)

    def points(self, images: int) -> str:
        """Returns a number of images, and what share of all it is."""
        return f"{images} image{'' if images == 1 else 's'} ({100 * images / len(self.x):.1f} points)"

    def outside(self, name: str, attack: Attack, on: Flags) -> Flags:
        """Runs an attack on the images `on` and returns which it broke, (N,); the worst case does not count it."""
        return self._run(name, attack, on)[0]

    def attack(self, name: str, attack: Attack, on: Flags, eps: float | None = None) -> Flags:
        """Runs an attack within the ball and returns which images it broke, (N,).

        Args:
            name: what it is called in the result.
            attack: images (n, *input_shape) and labels (n,) to adversarial images, as they.
            on: which images, (N,).
            eps: radius where it is smaller than the audit's.
        """
        before, started = Cost(self.cost.forward, self.cost.backward), time.perf_counter()
        broken, found = self._run(name, attack, on, self.eps if eps is None else eps)
        first = broken & self.survivors
        self._broken_by[first] = name
        self._adversarial[first] = found[first]
        cost = Cost(self.cost.forward - before.forward, self.cost.backward - before.backward)
        seconds = time.perf_counter() - started
        self.attacks.append(
            AttackRecord(name, int(on.sum()), int((broken & self.clean).sum()), int(first.sum()), cost, seconds)
        )
        return broken

    def _run(self, name: str, attack: Attack, on: Flags, eps: float | None = None) -> tuple[Flags, Images]:
        self.progress.set_postfix_str(f"{name}, {int(on.sum())} images")
        broken, points = np.zeros(len(self.x), dtype=bool), self.x.copy()
        if on.any():
            x, y = self.x[on], self.y[on]
            with (
                seeded(self.seed),
                attacks_may_leave_range(self.target.classifier),
                warnings.catch_warnings(),
            ):
                # the first check counts gradients that are zero or not finite
                warnings.simplefilter("ignore", MaskedGradientWarning)
                try:
                    found = np.asarray(attack(x.copy(), y), dtype=np.float32)
                except AttackError:
                    found = x
            radius = self.width if eps is None else eps
            # attacks may be out by a rounding error, not by more
            found = np.clip(found, np.maximum(x - radius, self.target.low), np.minimum(x + radius, self.target.high))
            broken[on], points[on] = self.target.broken(found, y), found
        return broken, points

    def ascent(
        self, x: Images, y: Labels, *, steps: int, restart: int = 0, eps: float | None = None, **options: Any
    ) -> Ascent:
        """Follows the gradients of the classifier, by default those of the cross-entropy; see `ascend`."""
        return ascend(
            options.pop("target", self.target),
            x,
            y,
            loss=options.pop("loss", cross_entropy),
            eps=self.eps if eps is None else eps,
            steps=steps,
            seed=self.seed + restart,
            **options,
        )

    def pgd(self, restarts: int, steps: int, *losses: Loss, eps: float | None = None) -> Attack:
        """Returns PGD with random starts, as `attack` takes it; a broken image makes no further steps.

        Args:
            restarts: number of starts.
            steps: steps from each.
            losses: what is made large, in turn; default cross-entropy.
            eps: radius, by default the audit's.
        """

        def run(x: Images, y: Labels) -> Images:
            result, left = x.copy(), np.arange(len(x))
            for restart in range(restarts):
                loss = losses[restart % len(losses)] if losses else cross_entropy
                points = self.ascent(x[left], y[left], steps=steps, restart=restart + 1, loss=loss, eps=eps).images
                result[left] = points
                left = left[~self.target.broken(points, y[left])]
                if len(left) == 0:
                    break
            return result

        return run

    def restarted(self, restarts: int) -> Attack:
        """Returns PGD on the margin and on the cross-entropy in turn."""
        return self.pgd(restarts, self.settings.steps, negative_margin, cross_entropy)

    def fgsm(self, eps: float) -> Attack:
        """Returns ART's FGSM with radius `eps`."""
        made = FastGradientMethod(self.target.classifier, eps=eps, batch_size=self.target.batch_size)
        return lambda x, y: made.generate(x, self.one_hot(y))

    def one_hot(self, y: Labels) -> Images:
        """Returns labels as rows, (N, nb_classes)."""
        return np.eye(self.target.classifier.nb_classes, dtype=np.float32)[y]

    @cached_property
    def gradients(self) -> dict[str, tuple[int, int]]:
        """Images classified correctly at which a loss's gradient is all zero, and not finite somewhere, by loss."""
        scale_free = ("DLR", dlr) if self.target.classifier.nb_classes > 2 else ("margin", negative_margin)
        return {name: self._count(loss) for name, loss in (("cross-entropy", cross_entropy), scale_free)}

    def _count(self, loss: Loss) -> tuple[int, int]:
        zero = bad = 0
        x, y = self.x[self.clean], self.y[self.clean]
        for start in range(0, len(x), self.target.batch_size):
            rows = slice(start, start + self.target.batch_size)
            images, labels = (torch.from_numpy(array[rows]).to(self.target.device) for array in (x, y))
            slope = self.target.gradient(images, labels, loss)[2].flatten(1)
            zero += int((slope == 0).all(dim=1).sum())
            bad += int((~slope.isfinite()).any(dim=1).sum())
        return zero, bad

    @cached_property
    def first_ascent(self) -> tuple[Ascent, Flags]:
        """PGD on all images that are classified correctly, to the end of its way, and which it broke, (N,)."""
        kept: list[Ascent] = []

        def run(x: Images, y: Labels) -> Images:
            kept.append(self.ascent(x, y, steps=self.settings.steps, leave=False))
            return kept[0].images

        broken = self.attack("PGD", run, self.clean)
        if not kept:
            none = self.x[:0]
            kept.append(Ascent(none, none, np.zeros(0, bool), np.zeros((self.settings.steps + 1, 0), np.float32)))
        return kept[0], broken

    @cached_property
    def one_step(self) -> Flags:
        """Which of all images are misclassified after FGSM, (N,), also those that were so before."""
        return self.attack("FGSM", self.fgsm(self.eps), self.clean | True)

    @cached_property
    def direct(self) -> Flags:
        """Images that hold out against all attacks with the classifier's own gradients, (N,)."""
        _ = self.one_step, self.first_ascent
        settings = self.settings
        if settings.restarts > 1:
            self.attack("PGD, restarts", self.restarted(settings.restarts - 1), self.survivors)
        finite = not any(bad for _, bad in self.gradients.values())
        if finite and self.target.classifier.nb_classes > 2:
            self.attack("APGD-DLR", self._apgd, self.survivors)
        else:  # DLR takes three classes, and ART's APGD finite gradients
            margin = self.pgd(settings.apgd_restarts, settings.apgd_steps, negative_margin)
            self.attack("PGD, margin", margin, self.survivors)
        return self.survivors

    def _apgd(self, x: Images, y: Labels) -> Images:
        attack = AutoProjectedGradientDescent(
            self.target.classifier,
            eps=self.eps,
            eps_step=2 * self.eps,
            max_iter=self.settings.apgd_steps,
            nb_random_init=self.settings.apgd_restarts,
            batch_size=self.target.batch_size,
            loss_type="difference_logits_ratio",
            verbose=False,
        )
        found: Images = attack.generate(x, self.one_hot(y))
        return found

    def worst_case(self) -> WorstCase:
        """Returns what all attacks together leave."""
        robust = self.survivors
        return WorstCase(
            float(robust.mean()), float(self.clean.mean()), robust, tuple(self._broken_by.tolist()), self._adversarial
        )
