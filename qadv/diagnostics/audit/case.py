"""What the checks share: the images, the attacks run so far, and which images still hold out."""

import copy
import itertools
import math
import re
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod

from qadv.attacks.square import Square
from qadv.diagnostics.audit.ascent import Ascent, ascend
from qadv.diagnostics.audit.ball import Ball
from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.gradients import MOST_IMAGES, Gradients, gradients_of
from qadv.diagnostics.audit.label_search import rays
from qadv.diagnostics.audit.losses import Loss, cross_entropy, negative_margin
from qadv.diagnostics.audit.repair import LostStep, lost_steps, mended
from qadv.diagnostics.audit.result import AttackRecord, Scale, WorstCase
from qadv.diagnostics.audit.settings import Settings
from qadv.diagnostics.audit.target import Flags, Images, Labels, Target
from qadv.errors import AttackError, InvalidInputError, MaskedGradientWarning
from qadv.estimators.checks import attacks_may_leave_range
from qadv.random_states import seeded

NEAREST = 2
_INSTEAD = 5
_PAYS, _LONGEST = 0.1, 5000  # share of images, and queries, as many as AutoAttack's Square has
_MOST_CLASSES = 9
_STARTS = 1000
ATTACKS = ("FGSM", "PGD", "Square", "RayS", "SPSA", "N-Attack", "DDN", "noise")
_LENT = {"x", "y", "clean", "fresh", "first_ascent", "one_step", "direct", "search"}
Attack = Callable[[Images, Labels], Any]


class AuditCase(Scale):
    """One classifier under audit.

    Args:
        x, y, eps, norm, seed, pixels, simulation: as of `audit`.
        settings: budgets.
        sources: other classifiers, by name, whose adversarial images are tried.
        adaptive: makes an ART attack from the classifier, or `None`.
        cost: where passes are counted.
        smaller: what became of the images in a smaller ball: those broken there are so here, and are not attacked.
        queries: answers in the classifier's place what attacks without gradients ask; `None` for the classifier itself.
        without: kinds of attacks that do not run, of `ATTACKS`.

    Attributes:
        skipped: those of them that would have run.
        clean: which images are classified correctly, (N,).
        fresh: those of them that no smaller ball broke, (N,).
        told: is called with each attack's name and number of images.
    """

    told: Callable[[str, int], None] | None = None

    def __init__(
        self,
        target: Target,
        x: Images,
        y: Labels,
        *,
        eps: float,
        settings: Settings,
        norm: float = math.inf,
        seed: int = 0,
        sources: Mapping[str, Target] | None = None,
        adaptive: Callable[[Any], Any] | None = None,
        cost: Cost | None = None,
        smaller: WorstCase | None = None,
        pixels: str = "float",
        queries: Target | None = None,
        simulation: Any = None,
        without: Collection[str] = (),
    ) -> None:
        super().__init__(len(x))
        self.target, self.queries = target, queries
        self.x, self.y, self.eps = x, y, eps
        self.ball = Ball(eps, norm, target.low, target.high)
        self.settings, self.seed = settings, seed
        self.sources, self.adaptive = dict(sources or {}), adaptive
        self.cost = cost or Cost()
        self.without, self.skipped = frozenset(without), set[str]()
        self.uint8, self.simulation = pixels == "uint8", simulation
        # a random network may answer otherwise than it did for the smaller ball
        self.clean: Flags = target.right(x, y) if smaller is None else np.array(smaller.broken_by) != "clean"
        self._attacks: list[AttackRecord] = []
        self._broken_by = np.where(self.clean, "", "clean").astype(object)
        self._adversarial = x.copy()
        if smaller is not None:
            self._broken_by[:], self._adversarial[:] = smaller.broken_by, smaller.adversarial
        self.fresh = self.survivors
        self._in_floats: Flags = self.clean & ~self.fresh

    @property
    def attacks(self) -> tuple[AttackRecord, ...]:
        """The attacks within the ball so far."""
        return tuple(self._attacks)

    @property
    def survivors(self) -> Flags:
        """Images that are classified correctly and that no attack has broken so far, (N,)."""
        return np.asarray(self._broken_by == "", dtype=bool)

    @property
    def in_floats(self) -> Flags:
        """Images that an attack has broken, whether or not it still does so once they are rounded to 8 bits, (N,)."""
        return self._in_floats.copy()

    @property
    def searched(self) -> Flags:
        """Images that hold out against direct attacks and searches without gradients, and what ran besides, (N,)."""
        _ = self.search
        return self.survivors

    def lent(self) -> "AuditCase":
        """Returns the case for somebody else's check: attacks that it runs count here, what it changes does not."""
        made = copy.copy(self)
        made.target = copy.copy(self.target)
        for name in _LENT & vars(made).keys():
            setattr(made, name, copy.deepcopy(getattr(made, name)))
        return made

    def outside(self, name: str, attack: Attack, on: Flags) -> Flags:
        """Runs an attack on the images `on` and returns which it broke, (N,); the worst case does not count it."""
        return np.zeros(len(self.x), dtype=bool) if self._skips(name) else self._run(name, attack, on)[0]

    def _skips(self, name: str) -> bool:
        """Whether an attack is of a kind that does not run."""
        kind = next((kind for kind in self.without if re.match(rf"{kind}\b", name)), None)
        self.skipped |= set() if kind is None else {kind}
        return kind is not None

    def attack(self, name: str, attack: Attack, on: Flags) -> Flags:
        """Runs an attack within the ball and returns which images it broke, (N,).

        Args:
            name: what it is called in the result.
            attack: images (n, *input_shape) and labels (n,) to adversarial images, as they.
            on: which images, (N,).
        """
        if self._skips(name):
            return np.zeros(len(self.x), dtype=bool)
        before, started = self.cost.copy(), time.perf_counter()
        broken, found, in_floats = self._run(name, attack, on, self.ball)
        self._in_floats |= in_floats & self.clean
        first = broken & self.survivors
        self._broken_by[first] = name
        self._adversarial[first] = found[first]
        counts = int(on.sum()), int((broken & self.clean).sum()), int(first.sum())
        self._attacks.append(AttackRecord(name, *counts, self.cost - before, time.perf_counter() - started))
        return broken

    def judged(self, found: Images, x: Images, y: Labels, ball: Ball | None = None) -> tuple[Flags, Images, Flags]:
        """Returns which of the points `found` count as broken, what they are once rounded, and which are so as floats.

        Args:
            found: points in the balls round `x`, (n, *input_shape).
            x, y: images and labels, (n, …).
            ball: by default the audit's.
        """
        in_floats = self.target.broken(found, y)
        if not self.uint8:
            return in_floats, found, in_floats
        rounded, inside = (ball or self.ball).as_8_bit(torch.from_numpy(found), torch.from_numpy(x))
        images: Images = rounded.numpy()
        return self.target.broken(images, y) & inside.numpy(), images, in_floats

    def _run(self, name: str, attack: Attack, on: Flags, ball: Ball | None = None) -> tuple[Flags, Images, Flags]:
        if self.told is not None:
            self.told(name, int(on.sum()))
        broken, points, in_floats = np.zeros(len(self.x), dtype=bool), self.x.copy(), np.zeros(len(self.x), dtype=bool)
        if on.any():
            x, y = self.x[on], self.y[on]
            with (
                seeded(self.seed),
                mended(self.repaired),
                attacks_may_leave_range(self.target.classifier),
                warnings.catch_warnings(),
            ):
                # the first check counts gradients that are zero or not finite
                warnings.simplefilter("ignore", MaskedGradientWarning)
                try:
                    found = np.asarray(attack(x.copy(), y), dtype=np.float32)
                except AttackError:
                    found = x
            if found.shape != x.shape or not np.isfinite(found).all():
                what = "NaN or infinite values" if found.shape == x.shape else f"shape {found.shape}"
                raise InvalidInputError(f"{name}: expected finite images of shape {x.shape}, and it returned {what}")
            # attacks may be out by a rounding error, not by more
            ball = self.ball.without_bound(x[0].size) if ball is None else ball
            found = ball.project(torch.from_numpy(found), torch.from_numpy(x)).numpy()
            broken[on], points[on], in_floats[on] = self.judged(found, x, y, ball)
        return broken, points, in_floats

    def ascent(self, x: Images, y: Labels, *, start: int = 0, **options: Any) -> Ascent:
        """Follows the gradients of the classifier, by default those of `self.loss`; see `ascend`."""
        given = {"target": self.target, "loss": self.loss, "ball": self.ball, **options}
        return ascend(x=x, y=y, seed=self.seed + start, **given)

    def _end(self, x: Images, y: Labels, **options: Any) -> Images:
        return self._best(self.ascent(x, y, leave=not self.uint8, **options), x, y)

    def _best(self, ascent: Ascent, x: Images, y: Labels) -> Images:
        """Returns where an ascent ends; of 8-bit images its highest point, where rounding takes back the first hit."""
        if not self.uint8 or not len(x):
            return ascent.images
        holds = self.judged(ascent.images, x, y)[0].reshape(-1, *[1] * (x.ndim - 1))
        return np.where(holds, ascent.images, ascent.highest)

    def pgd(self, steps: int, loss: Loss | None = None, start: int = 1, ball: Ball | None = None) -> Attack:
        """Returns PGD, as `attack` takes it; a broken image makes no further steps.

        Args:
            steps: number of steps.
            loss: what is made large, by default `self.loss`.
            start: number of the random start, from 1.
            ball: by default the audit's.
        """
        given: dict[str, Any] = {"steps": steps, "loss": loss or self.loss, "start": start, "ball": ball or self.ball}
        return lambda x, y: self._end(x, y, **given)

    def towards(self, rank: int, start: int = 1) -> Attack:
        """Returns PGD towards the class whose logit is the largest (0), second, … but the label's, as `pgd`."""

        def run(x: Images, y: Labels) -> Images:
            logits = self.target.logits(x)[:, : self.target.classes]
            logits[np.arange(len(y)), y] = -np.inf
            goals = np.argsort(-logits, axis=1, kind="stable")[:, rank]
            return self._end(x, y, steps=self.settings.steps, start=_STARTS * (rank + 1) + start, goals=goals)

        return run

    @property
    def ranks(self) -> range:
        """Ranks of the classes that `towards` goes for: all but the label, nine at most; none of a targeted audit."""
        return range(0 if self.target.targeted else min(self.target.classes - 1, _MOST_CLASSES))

    def fgsm(self, eps: float) -> Attack:
        """Returns ART's FGSM with radius `eps`."""
        common = {"batch_size": self.target.batch_size, "targeted": self.target.targeted}
        made = FastGradientMethod(self.target.classifier, norm=self.ball.norm, eps=eps, **common)
        return lambda x, y: made.generate(x, self.one_hot(y))

    def one_hot(self, y: Labels) -> Images:
        """Returns labels as rows, (N, nb_classes)."""
        return np.eye(self.target.classifier.nb_classes, dtype=np.float32)[y]

    @cached_property
    def gradients(self) -> Gradients:
        """What the gradients are like at the images that are classified correctly."""
        return self._looked_at()

    @cached_property
    def repair(self) -> list[LostStep]:
        """The steps that lost the gradient and have that of the identity while attacks run; none where it leads."""
        if self.gradients.leads(self.allowance) or not self.clean.any():
            return []
        few = min(MOST_IMAGES, self.target.batch_size)
        x, y = self.target.tensors(*(array[self.clean][:few] for array in (self.x, self.y)))
        return lost_steps(self.target, x, y, lambda: self._looked_at().leads(self.allowance))

    @property
    def repaired(self) -> list[LostStep]:
        """The steps of `repair`, none before it was asked for."""
        found: list[LostStep] = vars(self).get("repair", [])
        return found

    @cached_property
    def leads(self) -> bool:
        """Whether attacks can follow the gradient, repaired where it had to be."""
        if not self.repair:
            return self.gradients.leads(self.allowance)
        with mended(self.repair):
            return self._looked_at().leads(self.allowance)

    @property
    def trusted(self) -> bool:
        """Whether the gradient leads, and is that of the logits: the gradient of hard labels is somebody's choice."""
        return self.leads and not self.gradients.hard

    def _looked_at(self) -> Gradients:
        return gradients_of(self.target, self.x[self.clean], self.y[self.clean], self.ball, self.seed)

    @cached_property
    def loss(self) -> Loss:
        """Cross-entropy, or the margin where the softmax is so sure that cross-entropy has no gradient."""
        sure = self.gradients.zero["cross-entropy"] > self.allowance
        return negative_margin if sure else cross_entropy

    @cached_property
    def first_ascent(self) -> tuple[Ascent, Flags]:
        """PGD on all `fresh` images, to the end of its way, and which it broke, (N,)."""
        kept: list[Ascent] = []

        def run(x: Images, y: Labels) -> Images:
            kept.append(self.ascent(x, y, steps=self.settings.steps, leave=False))
            return self._best(kept[0], x, y)

        broken = self.attack("PGD", run, self.fresh)
        return kept[0] if kept else self.ascent(self.x[:0], self.y[:0], steps=self.settings.steps), broken

    @cached_property
    def one_step(self) -> Flags:
        """Which of all images are misclassified after FGSM, (N,), also those that were so before."""
        return self.attack("FGSM", self.fgsm(self.eps), self.clean | True)

    @cached_property
    def direct(self) -> Flags:
        """Images that hold out against all attacks with the classifier's own gradients, (N,).

        Where these lead nowhere, what is left is left to attacks without gradients.
        """
        if self.leads:
            _ = self.one_step, self.first_ascent
        if self.leads or self.repair:  # a repair that brings back a part of the gradient may lead somewhere
            self.attack("PGD, margin", self.pgd(self.settings.steps, negative_margin), self.survivors)
        if self.leads:
            # hard labels don't say which are the nearest
            for rank in self.ranks if self.gradients.hard else self.ranks[:NEAREST]:
                self.attack(f"PGD, other class {rank + 1}", self.towards(rank), self.survivors)
        return self.survivors

    @cached_property
    def search(self) -> tuple[Flags, int, int]:
        """Which images a search without gradients broke that hold out against these, (N,), and its first and last run.

        Of these two runs it is how many they broke. Square's runs follow each other until one breaks nothing; while
        they break more than a tenth of what is left, each is twice as long, and more follow. Where no gradient leads,
        the first has the passes of the attacks that follow gradients. Where logits are hard labels, on which Square is
        blind, RayS runs once.
        """
        gained, found = self.direct & False, list[int]()
        blind, length, runs = self.gradients.hard, self.settings.square_steps, self.settings.square_runs
        for run in itertools.count():
            left = self.direct & ~gained
            steps = length * (1 if run or self.trusted else _INSTEAD)
            if blind:
                broken = self.attack(f"RayS, {steps} directions", self._rays(steps), left)
            else:
                broken = self.attack(f"Square, {steps} queries, run {run + 1}", self._square(steps, run), left)
            gained = gained | broken
            found.append(int(broken.sum()))
            if found[-1] > _PAYS * left.sum():
                length = max(length, min(2 * length, _LONGEST))
            else:
                runs -= 1
            if blind or not found[-1] or not runs:
                break
        return gained, found[0], found[-1]

    @property
    def options(self) -> dict[str, Any]:
        """What qadv's attacks are given besides their own options."""
        common = {"batch_size": self.target.batch_size, "targeted": self.target.targeted}
        return common | {"seed": self.seed, "verbose": False}

    def queried(self, made: Callable[[Target], Attack]) -> Attack:
        """Returns an attack without gradients, made for what answers queries.

        Where the classifier itself denies that such an image is adversarial, it is asked all over again.
        """
        if self.queries is None:
            return made(self.target)
        queries = self.queries

        def run(x: Images, y: Labels) -> Images:
            found = np.array(made(queries)(x, y), dtype=np.float32)
            denied = queries.broken(found, y) & ~self.target.broken(found, y)
            if denied.any():
                found[denied] = made(self.target)(x[denied], y[denied])
            return found

        return run

    def _rays(self, steps: int) -> Attack:
        return self.queried(lambda target: lambda x, y: rays(target, x, y, self.ball, steps))

    def _square(self, steps: int, run: int) -> Attack:
        given = {**self.options, "seed": self.seed + run, "eps": self.eps, "norm": self.ball.norm, "max_iter": steps}
        return self.queried(lambda target: Square(target.classifier, **given).generate)

    def worst_case(self) -> WorstCase:
        """Returns what all attacks together leave."""
        return WorstCase(tuple(self._broken_by.tolist()), self._adversarial)
