"""The worst case of each image over all attacks within one ball."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qadv.benchmark.report.audits import audits_of
from qadv.benchmark.report.results import CellResult, Network, StudyResults
from qadv.benchmark.report.threats import Threat, keeps_to, threat_of


class Attempt(NamedTuple):
    """An attack, or all those of an audit: who withstood it, (N,) bool; `source` is the other network of a transfer."""

    attack: str
    source: str | None
    right: NDArray[np.bool_]
    audit: bool = False


@dataclass(frozen=True)
class WorstCase:
    """The worst case over some attacks within a ball, which an audit may be one of (`audited`).

    Attributes:
        over: what the attacks are called.
        seeds: those it is of: where an attack is missing for a seed, that one stands by itself.
        samples: number of images, N: the first ones, which all these attacks were run on.
        clean, accuracy: shares classified correctly, without an attack and under each of these, by seed.
        attacks_alone, audit_alone: shares under the study's attacks and under the audit's, by seed; empty of none.
    """

    threat: Threat
    over: str
    seeds: tuple[int, ...]
    samples: int
    clean: tuple[float, ...]
    accuracy: tuple[float, ...]
    audited: bool
    attacks_alone: tuple[float, ...] = ()
    audit_alone: tuple[float, ...] = ()


def worst_cases(results: StudyResults, network: Network) -> list[WorstCase]:
    """Returns the worst cases of a network, by threat.

    Where attacks were run on different numbers of images there is one for each number: over those run on at least as
    many. The first of a threat, the headline, is the lowest that an audit has its part in, or the lowest where there is
    no audit.
    """
    found: dict[tuple[Threat, int, str, bool, bool], list[tuple[int, list[float]]]] = {}
    for seed in results.study.seeds:
        of_seed = (cell for cell in results.clean(network) if cell.there and cell.place["seed"] == seed)
        if (clean := next((cell.record["right"] for cell in of_seed), None)) is None:
            continue
        for threat, attempts in sorted(_attempts(results, network, seed).items(), key=lambda pair: pair[0]):
            for count in sorted({min(len(attempt.right), len(clean)) for attempt in attempts}, reverse=True):
                taken = [attempt for attempt in attempts if len(attempt.right) >= count]
                kinds = [[], taken, *([each for each in taken if each.audit is audit] for audit in (False, True))]
                rights = ([clean[:count], *(attempt.right[:count] for attempt in some)] for some in kinds)
                shares = [float(np.logical_and.reduce(right).mean()) for right in rights]
                audited = any(attempt.audit for attempt in taken)
                among = threat, count, _over(taken), audited, not all(attempt.audit for attempt in taken)
                found.setdefault(among, []).append((seed, shares))
    made = []
    for (threat, count, over, audited, attacked), by_seed in found.items():
        clean_shares, together, attacks_alone, audit_alone = zip(*(shares for _, shares in by_seed), strict=True)
        seeds = tuple(seed for seed, _ in by_seed)
        alone = attacks_alone if attacked else (), audit_alone if audited else ()
        made.append(WorstCase(threat, over, seeds, count, clean_shares, together, audited, *alone))
    return sorted(made, key=lambda worst: (worst.threat, not worst.audited, np.mean(worst.accuracy), -worst.samples))


def outside(results: StudyResults) -> list[str]:
    """Returns the labels of the attacks whose images leave the ball that their options say."""
    found = (each for network in results.networks for each in _bounded(results, network))
    return list(dict.fromkeys(cell.label for _, cell, ball in found if not keeps_to(ball, cell.record)))


def _attempts(results: StudyResults, network: Network, seed: int) -> dict[Threat, list[Attempt]]:
    found: dict[Threat, list[Attempt]] = {}
    seen = set()
    for attack, cell, threat in _bounded(results, network):
        if cell.place["seed"] == seed and cell.key not in seen and keeps_to(threat, cell.record):
            seen.add(cell.key)
            source = None if cell.source is None else results.label(cell.source)
            found.setdefault(threat, []).append(Attempt(attack, source, cell.record["right"]))
    for audit in audits_of(results, network):
        # one of a pair of classes is of those images, and of that success, alone
        if audit.seed == seed and audit.result is not None and not audit.result.get("pair"):
            for each in (*audit.result.get("smaller", ()), audit.result):
                robust = np.array(each["worst_case"]["robust"], dtype=bool)
                threat = Threat(float(each.get("norm", "inf")), float(f"{each['eps']:.9g}"))
                found.setdefault(threat, []).append(Attempt(audit.measure, None, robust, audit=True))
    return found


def _bounded(results: StudyResults, network: Network) -> Iterator[tuple[str, CellResult, Threat]]:
    """Yields the finished cells of attacks within a ball, from all sources and of all seeds, with name and ball."""
    for attack in results.study.attacks:
        if (ball := ball_of(results, attack)) is not None:
            yield from ((attack, cell, ball) for cell in results.from_all_sources(network, attack) if cell.there)


def ball_of(results: StudyResults, attack: str) -> Threat | None:
    """Returns the ball of an attack of a study; `None` for one without a bound."""
    return threat_of(results.study.attacks[attack])


def _over(attempts: list[Attempt]) -> str:
    names: dict[str, list[str | None]] = {}
    for attempt in attempts:
        names.setdefault(attempt.attack, []).append(attempt.source)
    parts = []
    for name, sources in names.items():
        made_on = [source for source in sources if source is not None]
        parts += [name] if None in sources else []
        parts += [f"{name} from {made_on[0] if len(made_on) == 1 else f'{len(made_on)} networks'}"] if made_on else []
    return ", ".join(parts)
