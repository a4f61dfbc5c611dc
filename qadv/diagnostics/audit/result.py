"""What an audit found."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.settings import Settings
from qadv.diagnostics.audit.table import table
from qadv.diagnostics.measured import Measured
from qadv.tables import as_text
from qadv.units import NORMS


class Verdict(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_EVALUATED = "not evaluated"


class Grade(StrEnum):
    """What a worst case is worth, from the worst to the best."""

    UNUSABLE = "gradients unusable"
    NOT_CONVERGED = "not converged"
    NOTHING = "nothing against it"


_ENOUGH = 100
_WIDTH = 120
NO_GRADIENT = "gradients lead nowhere (check 1): attacks that follow them were left out"


def interval(count: int, samples: int) -> tuple[float, float]:
    """Returns the Clopper-Pearson interval, 95 %, of a share of which `count` of `samples` were seen; 0 to 1 of none.

    Clopper, Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
    """
    if not samples:
        return 0.0, 1.0
    found = binomtest(count, samples).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def failed_checks(numbers: Collection[int]) -> str:
    """Returns which checks failed: "checks 1, 3 failed"."""
    return f"check{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} failed"


class Scale:
    """How many images there are, `samples`, and what numbers of them are measured by."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    @property
    def allowance(self) -> int:
        """How many images one point is, and at least one: fewer than a hundred images can't tell less."""
        return max(1, self.samples // 100)

    @property
    def half_allowance(self) -> int:
        """How many images half a point is, and at least one."""
        return max(1, self.samples // 200)

    def points(self, images: int) -> str:
        """Returns a number of images, and what share of all it is, with its Clopper-Pearson interval."""
        low, high = interval(images, self.samples)
        share = f"{100 * images / self.samples:.1f} points, 95 %: {100 * low:.1f} to {100 * high:.1f}"
        return f"{images} image{'' if images == 1 else 's'} ({share})"


@dataclass(frozen=True)
class Finding:
    """What a check returns.

    Attributes:
        verdict: passed, failed or not evaluated.
        figure: what was measured, in words; why, where it was not.
        values: the same as plain data.
        grade: what the worst case is worth at most, if this is all that is against it.
        counts: of a `CountedCheck`, what was counted: it adds up over parts of the images.
    """

    verdict: Verdict
    figure: str
    values: dict[str, Any] = field(default_factory=dict)
    grade: Grade = Grade.NOTHING
    counts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A verdict and a grade may be given as text; a ValueError says that there is no such."""
        object.__setattr__(self, "verdict", Verdict(self.verdict))
        object.__setattr__(self, "grade", Grade(self.grade))

    @classmethod
    def of(cls, passed: bool, figure: str, grade: Grade = Grade.NOT_CONVERGED, **values: Any) -> "Finding":
        """Returns a finding that passed, or that failed and leaves a worst case of this grade."""
        if passed:
            return cls(Verdict.PASSED, figure, values)
        return cls(Verdict.FAILED, figure, values, grade)

    @classmethod
    def none(cls, reason: str) -> "Finding":
        """Returns the finding of a check that could not be made."""
        return cls(Verdict.NOT_EVALUATED, reason)


@dataclass(frozen=True)
class CheckResult(Measured):
    """One check: its number in the list of the documentation, name, rule, and finding (see `Finding`)."""

    number: int
    name: str
    rule: str
    verdict: Verdict
    figure: str
    values: dict[str, Any]
    grade: Grade = Grade.NOTHING
    counts: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class AttackRecord(Measured):
    """One attack within the ball.

    Attributes:
        name: its name and what it was given.
        samples: images it was run on; those broken before leave where the check permits it.
        broken: how many of these it broke.
        first: how many no attack before it had broken.
        cost: passes through all networks that took part.
        seconds: wall time.
    """

    name: str
    samples: int
    broken: int
    first: int
    cost: Cost
    seconds: float


@dataclass(frozen=True)
class WorstCase(Measured):
    """Every image under the attack that is worst for it.

    Attributes:
        broken_by: name of the first attack that broke each image, `"clean"` where none was needed, `""` where none did.
        adversarial: the images that did it, (N, *input_shape) float32; where none did, the image itself.
    """

    broken_by: tuple[str, ...]
    adversarial: NDArray[np.float32]

    @property
    def robust(self) -> NDArray[np.bool_]:
        """Which images are classified correctly, and by every attack, (N,)."""
        return np.array([not by for by in self.broken_by])

    @property
    def accuracy(self) -> float:
        """Their share of the N images, 0 to 1."""
        return float(self.robust.mean())

    @property
    def clean_accuracy(self) -> float:
        """Share classified correctly without an attack."""
        return float(np.mean([by != "clean" for by in self.broken_by]))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, without the images."""
        shares = {"accuracy": self.accuracy, "clean_accuracy": self.clean_accuracy}
        return {**shares, "robust": self.robust.tolist(), "broken_by": list(self.broken_by)}


@dataclass(frozen=True, repr=False)
class AuditResult(Measured):
    """The worst case over all attacks, and whether it may be believed; `print` shows it as a table.

    Attributes:
        checks: in the order of their numbers.
        attacks: those within the ball, in the order in which they ran.
        eps, norm: of the ball, in pixel values.
        samples: number of images, N.
        thorough, seed, pixels, without: as given.
        settings: the budgets that follow from `thorough`.
        gradient: how the gradients come about.
        draws: passes averaged for each answer; 1 for a network whose answers repeat.
        cost, seconds: passes through all networks that took part, and wall time, at this radius.
        repaired: steps of the network that lost the gradient, and had the identity's while attacks ran (check 1).
        not_given: what the user could have given and did not: an adaptive attack, networks to transfer from.
        pair: a class, and the one that its images were to be given; `None` of all images, and any other class.
        files: the files whose own answers these are, by name, with their SHA-256; none of a network of torch.
        queries: what answered attacks without gradients in the network's place, in words; `""` for the network itself.
        left_out: numbers of the checks that were not chosen.
        stopped: why it is of fewer images than were given, empty where it is of all.
        smaller: the results in smaller balls, each larger than the one before.
    """

    worst_case: WorstCase
    checks: tuple[CheckResult, ...]
    attacks: tuple[AttackRecord, ...]
    eps: float
    samples: int
    thorough: bool
    seed: int
    settings: Settings
    gradient: str
    draws: int
    cost: Cost
    seconds: float
    repaired: tuple[str, ...] = ()
    not_given: tuple[str, ...] = ()
    norm: float = math.inf
    pair: tuple[int, int] | None = None
    pixels: str = "float"
    files: dict[str, str] = field(default_factory=dict)
    queries: str = ""
    left_out: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    stopped: str = ""
    smaller: "tuple[AuditResult, ...]" = ()

    @property
    def grade(self) -> Grade:
        """What the worst case is worth, by the checks that failed."""
        order = list(Grade)
        return min((check.grade for check in self.checks), key=order.index, default=Grade.NOTHING)

    @property
    def interval(self) -> tuple[float, float]:
        """The Clopper-Pearson interval of the worst case, 95 %: what other images as these may give, 0 to 1."""
        return interval(int(self.worst_case.robust.sum()), self.samples)

    @property
    def passed(self) -> bool:
        """Whether no check failed, at any radius; those that were not evaluated say nothing either way."""
        return not any(each.failed for each in (*self.smaller, self))

    @property
    def curve(self) -> tuple[tuple[float, float, Grade], ...]:
        """Radius, worst case and grade, from the smallest ball to this one."""
        return tuple((each.eps, each.worst_case.accuracy, each.grade) for each in (*self.smaller, self))

    @property
    def spent(self) -> tuple[Cost, float]:
        """Passes and seconds at all radii together."""
        curve = (*self.smaller, self)
        return sum((each.cost for each in curve), Cost()), sum(each.seconds for each in curve)

    @property
    def failed(self) -> tuple[int, ...]:
        """The numbers of the checks that failed."""
        return tuple(check.number for check in self.checks if check.verdict is Verdict.FAILED)

    @property
    def headline(self) -> str:
        """The worst case in one line, and beside it what the checks say of it."""
        worst, (low, high) = self.worst_case, self.interval
        of = "" if self.pair is None else " of class {} that are not given class {}".format(*self.pair)
        images = "1 image" if self.samples == 1 else f"{self.samples} images"
        rounded = " by 8-bit images" if self.pixels == "uint8" else ""
        text = (
            f"Worst case: {100 * worst.accuracy:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f}) of {images}{of} "
            f"within {NORMS[self.norm]} {self.eps:.4g}{rounded} "
            f"(clean {100 * worst.clean_accuracy:.1f} %): {self.grade}"
        )
        if self.grade is Grade.UNUSABLE:
            text += ", the figure means nothing"
        if self.failed:
            text += f" ({failed_checks(self.failed)})"
        notes = [f"of {name}, SHA-256 {sha256[:16]}…" for name, sha256 in self.files.items()]
        notes += [f"gradient repaired: {', '.join(self.repaired)}"] if self.repaired else []
        notes += [f"no {what} was given" for what in self.not_given]
        notes += [f"without checks {', '.join(map(str, self.left_out))}"] if self.left_out else []
        notes += [f"without the attacks {', '.join(self.without)}"] if self.without else []
        notes += [self.stopped] if self.stopped else []
        if worst.clean_accuracy == 0:
            what = "no image is classified correctly" if self.pair is None else "all are given it without an attack"
            notes.append(f"{what}, so that nothing could be attacked")
        if self.samples < _ENOUGH:
            unseen = 100 * interval(0, self.samples)[1]
            notes.append(f"{images} can't show what befalls less than {unseen:.0f} %")
        return "; ".join([text, *notes])

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, without the images."""
        return {
            "headline": self.headline,
            "passed": self.passed,
            "grade": self.grade.value,
            "interval": list(self.interval),
            "curve": [{"eps": eps, "accuracy": accuracy, "grade": grade.value} for eps, accuracy, grade in self.curve],
            "pair": None,
            **super().to_dict(),
            "norm": "inf" if self.norm == math.inf else int(self.norm),
        }

    @classmethod
    def from_dict(  # type: ignore[override]
        cls, data: Mapping[str, Any], adversarial: Sequence[NDArray[np.float32]]
    ) -> "AuditResult":
        """Returns the result that `to_dict` gave, with the images of each radius, the smallest first."""
        worst = {**data["worst_case"], "adversarial": adversarial[-1]}
        smaller = tuple(map(cls.from_dict, data["smaller"], [[each] for each in adversarial]))
        return super().from_dict({**data, "worst_case": worst, "smaller": smaller})

    def __rich__(self) -> Any:
        return table(self)

    def __str__(self) -> str:
        return as_text(table(self), _WIDTH)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline}>"
