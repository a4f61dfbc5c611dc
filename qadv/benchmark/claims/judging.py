"""Judges claims by the cells of their studies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qadv.benchmark.claims.claims_file import Claim, ClaimsFile, Comparison, Selection
from qadv.benchmark.claims.evidence import Evidence, alike
from qadv.benchmark.claims.interval import interval
from qadv.benchmark.report.results import StudyResults
from qadv.errors import InvalidInputError

SEEDS = 3  # that a verdict needs
CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
NOT_RUN, OUT_OF_REACH = "not run", "out of reach"
VERDICTS = (CONFIRMED, REFUTED, UNDECIDED, NOT_RUN, OUT_OF_REACH)


@dataclass(frozen=True)
class Found:
    """What the cells say about one comparison.

    Attributes:
        seeds: those of which all cells are there; of several with the same networks, as where nothing is trained, the
            first.
        images: that each figure is of; `None` for numbers of another kind.
        more, than: of the two sides, means over seeds and images; accuracies in %.
        low, high: the 95 % interval of their difference.
    """

    comparison: Comparison
    seeds: tuple[int, ...] = ()
    images: int | None = None
    more: float = np.nan
    than: float = np.nan
    low: float = -np.inf
    high: float = np.inf

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        if not self.seeds:
            return NOT_RUN
        if len(self.seeds) >= SEEDS and self.low > self.comparison.margin:
            return CONFIRMED
        return REFUTED if len(self.seeds) >= SEEDS and self.high < self.comparison.margin else UNDECIDED

    @property
    def beside_published(self) -> str:
        """`smaller` or `larger` than the published effect where the interval leaves that out, else `""`."""
        effect = self.comparison.effect
        if effect is None or len(self.seeds) < SEEDS:
            return ""
        return "smaller" if self.high < effect else "larger" if self.low > effect else ""


@dataclass(frozen=True)
class Judged:
    """A claim and what was found of each of its cases."""

    claim: Claim
    found: tuple[Found, ...]

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`: confirmed if every case is, refuted if one is."""
        verdicts = {each.verdict for each in self.found}
        if not verdicts:
            return OUT_OF_REACH
        return next((each for each in (NOT_RUN, REFUTED, UNDECIDED) if each in verdicts), CONFIRMED)

    @property
    def beside_published(self) -> str:
        """`smaller` or `larger` where every case is, else `""`."""
        (first, *others) = {each.beside_published for each in self.found} or {""}
        return "" if others else first


def judge(file: ClaimsFile, evidence: Evidence) -> list[Judged]:
    """Returns each claim with what was found; a selection that its study has no cells for is a `StudyError`."""
    judged, faults = [], []
    for index, (claim, comparisons) in enumerate(zip(file.claims.claims, file.comparisons, strict=True)):
        found = []
        for comparison in comparisons:
            try:
                found.append(_compared(comparison, evidence))
            except InvalidInputError as error:
                case = f"{comparison.case}: " if comparison.case else ""
                faults.append((("claims", index, "more" if claim.more else "than"), f"{case}{error}"))
        judged.append(Judged(claim, tuple(found)))
    if faults:
        raise file.complain(faults)
    return judged


def _compared(comparison: Comparison, evidence: Evidence) -> Found:
    selections = [*comparison.more, *comparison.than]
    if any(each.study not in evidence.studies for each in selections):
        return Found(comparison)
    given = [evidence.figures(each) for each in selections]
    networks: dict[object, int] = {}
    for seed in (seed for seed in given[0] if all(seed in each for each in given)):
        made = tuple(evidence.networks(each, seed) for each in selections)
        networks.setdefault(made if any(made) else seed, seed)
    seeds = tuple(networks.values())
    if not seeds:
        return Found(comparison)
    values = np.array(alike([each[seed] for each in given for seed in seeds]))
    images = values.shape[1] if values.ndim > 1 else None
    if images is not None:
        if len(data := _datasets(selections, evidence.studies)) > 1:
            raise InvalidInputError(f"images of {' and '.join(data)} can't be paired: compare those of one")
        if len({each for selection in selections for each in evidence.data(selection, seeds[0])}) > 1:
            studies = " and ".join(dict.fromkeys(str(each.study) for each in selections))
            raise InvalidInputError(f"{studies} have other images by the name of {data[0]}")
    values = values.reshape(len(given), len(seeds), *values.shape[1:])
    split = len(comparison.more)
    more, than = _side(values[:split]), _side(values[split:])
    low, high = interval(more - than)
    return Found(comparison, seeds, images, float(more.mean()), float(than.mean()), low, high)


def _side(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns what stands on one side: nothing, one selection, or the first less the second."""
    return values[0] - values[1:].sum(0) if len(values) else np.zeros(values.shape[1:])


def _datasets(selections: Sequence[Selection], studies: Mapping[str, StudyResults]) -> list[str]:
    """Returns the data sets that are compared."""
    found = (each.dataset or studies[str(each.study)].study.datasets for each in selections)
    return sorted({name for names in found for name in ([names] if isinstance(names, str) else names)})
