"""How a report opens: one sentence, one chart, and one row for each network, whose figure is the audited worst case."""

from collections import Counter
from collections.abc import Container, Sequence

import numpy as np
from scipy.stats import t

from qadv.benchmark.report.audits import verdict
from qadv.benchmark.report.content import Bar, Bars, Block, Row, Section, Table, Value
from qadv.benchmark.report.numbers import ABSENT, spread
from qadv.benchmark.report.readable import readable_names
from qadv.benchmark.report.results import Network, StudyResults
from qadv.benchmark.report.threats import Threat
from qadv.benchmark.report.worst_case import WorstCase, worst_cases
from qadv.diagnostics.audit.result import interval

_SEEN = 0.05  # points


def opening(results: StudyResults) -> tuple[str, Section | None]:
    """Returns the sentence and the section; none where no attack keeps to a ball."""
    names = readable_names(results)
    by_network = [(network, worst_cases(results, network)) for network in results.networks]
    balls = {worst.threat for _, cases in by_network for worst in cases if worst.audited}
    found = [(network, _headline(cases, balls)) for network, cases in by_network if cases]
    if not found:
        return "", None
    rows: list[Row] = []
    bars = []
    for network, worst in found:
        label = verdict(results, network, worst.audited, None)
        figure = _percent(worst.accuracy) + _of_seeds(results, worst)
        rows.append([
            names[network.axes], Value(figure, tone="" if worst.audited else "muted"),
            label, Value(_percent(worst.clean)), *_apart(worst), str(worst.threat), f"{worst.samples:,}", network.label,
        ])  # fmt: skip
        name = names[network.axes] + _of_seeds(results, worst)
        bars.append(bar(name, worst.accuracy, worst.clean, worst.samples, label.tone))
    columns = [
        "network", "worst case, %", "audit", "clean, %", "under the study's attacks, %", "under the audit's, %",
        "they differ by, points", "ball", "images", "in the study",
    ]  # fmt: skip
    audits = " and the audit's" if any(worst.audited for _, worst in found) else ""
    notes = [f"The worst case is over the study's attacks{audits}, image by image."]
    if gaps := {names[network.axes]: gap for network, worst in found if abs(gap := _gap(worst)) >= _SEEN}:
        widest = max(gaps, key=lambda name: abs(gaps[name]))
        notes.append(
            f"The study's attacks and the audit differ on {len(gaps)} of {len(found)} networks, most on {widest}: "
            f"{_said(gaps[widest])} by {abs(gaps[widest]):.1f} points."
        )
    table = Table.of("One row for each network", columns, rows, *notes)
    blocks: tuple[Block, ...] = (Bars("Images classified correctly, clean and in the worst case", tuple(bars)), table)
    return _sentence(results, names, found), Section("At a glance", blocks)


def _headline(cases: Sequence[WorstCase], balls: Container[Threat]) -> WorstCase:
    """Returns the worst case in the largest ball that was audited; else in one that other networks were audited in."""
    audited = [worst for worst in cases if worst.audited]
    among = audited or [worst for worst in cases if worst.threat in balls] or cases[:1]
    return max(among, key=lambda case: case.threat)


def bar(label: str, worst: Sequence[float], clean: Sequence[float], samples: int, tone: str = "") -> Bar:
    """Returns the bar of a network, of shares by seed; its range is that of the worst case, 95 %.

    That is of the images, which seeds share, and what seeds differ by is added, with Student's t. Of the tones it has
    the bad one: good checks make no good figure.
    """
    share, seeds = float(np.mean(worst)), len(worst)
    apart = t.ppf(0.975, seeds - 1) * np.std(worst, ddof=1) / seeds**0.5 if seeds > 1 else 0.0
    ends = interval(round(share * samples), samples)
    low, high = (float(np.clip(share + np.copysign(np.hypot(end - share, apart), end - share), 0, 1)) for end in ends)
    before, text = 100 * float(np.mean(clean)), f"{_percent(worst)} %"
    return Bar(label, 100 * share, before, 100 * low, 100 * high, text, tone if tone == "bad" else "")


def _of_seeds(results: StudyResults, worst: WorstCase) -> str:
    """Returns over how many seeds a worst case is, where attacks of others are missing."""
    there, known = len(worst.seeds), len(results.study.seeds)
    return f" ({there} of {known} seeds)" if there < known else ""


def _percent(shares: Sequence[float]) -> str:
    return spread([100 * share for share in shares])


def _apart(worst: WorstCase) -> list[Value | str]:
    """Returns accuracy under the study's attacks alone, under the audit's, and by how much they differ."""
    both, gap = (worst.attacks_alone, worst.audit_alone), _gap(worst)
    said = Value(f"{abs(gap):.1f}, {_said(gap)}") if abs(gap) >= _SEEN else Value("0.0", tone="muted")
    return [*(_percent(each) if each else ABSENT for each in both), said if all(both) else ABSENT]


def _gap(worst: WorstCase) -> float:
    """Returns by how many points the audit's figure is below that of the study's attacks; 0 where one is missing."""
    both = (worst.attacks_alone, worst.audit_alone)
    return 100 * float(np.mean(both[0]) - np.mean(both[1])) if all(both) else 0.0


def _said(gap: float) -> str:
    return "the audit's lower" if gap > 0 else "the study's lower"


def _comparable(found: Sequence[tuple[Network, WorstCase]]) -> list[tuple[Network, WorstCase]]:
    """Returns the most networks that the same attacks met on as many images."""
    alike = Counter((worst.threat, worst.over, worst.samples) for _, worst in found)
    ((key, _),) = alike.most_common(1)
    return [each for each in found if (each[1].threat, each[1].over, each[1].samples) == key]


def _sentence(
    results: StudyResults, names: dict[tuple[str, ...], str], found: Sequence[tuple[Network, WorstCase]]
) -> str:
    audited = [(network, worst) for network, worst in found if worst.audited]
    bad = {network.axes for network, _ in audited if verdict(results, network, True, None).tone == "bad"}
    sound = [(network, worst) for network, worst in audited if network.axes not in bad]
    among = _comparable(sound or audited or found)
    network, worst = max(among, key=lambda each: np.mean(each[1].accuracy))
    which = names[network.axes][0].upper() + names[network.axes][1:]
    which += f" holds out best of {len(among)} networks" if len(among) > 1 else ""
    ends = {each.axes: bar("", case.accuracy, case.clean, case.samples) for each, case in among}
    near = sum(each.high >= ends[network.axes].low for each in ends.values()) - 1
    which += f" (the interval of {near} other{'s' * (near > 1)} overlaps its own)" if near else ""
    figure = (
        f"{_percent(worst.accuracy)} % of {worst.samples:,} images are classified correctly under the worst of all "
        f"attacks within {worst.threat}, {_percent(worst.clean)} % without one{_of_seeds(results, worst)}"
    )
    if not audited:
        return f"{which}: {figure}. No network was audited, so stronger attacks may lower this at will."
    if not sound:
        return f"{which}: {figure}; but a check of its audit failed: stronger attacks are to be expected."
    others = f" A check failed of {len(bad)} other{'s' * (len(bad) > 1)}." if bad else ""
    return f"{which}: {figure}; no check of its audit failed.{others}"
