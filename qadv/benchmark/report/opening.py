"""How a report opens: one sentence, one chart, and one row for each network, whose figure is the audited worst case."""

from collections.abc import Sequence

import numpy as np

from qadv.benchmark.report.audits import verdict
from qadv.benchmark.report.content import Bar, Bars, Block, Row, Section, Table, Value
from qadv.benchmark.report.numbers import ABSENT, spread
from qadv.benchmark.report.readable import readable_names
from qadv.benchmark.report.results import Network, StudyResults
from qadv.benchmark.report.worst_case import WorstCase, worst_cases
from qadv.diagnostics.audit.result import interval


def opening(results: StudyResults) -> tuple[str, Section | None]:
    """Returns the sentence and the section; none where no attack keeps to a ball."""
    names = readable_names(results)
    found = [(network, cases[0]) for network in results.networks if (cases := worst_cases(results, network))]
    if not found:
        return "", None
    rows: list[Row] = []
    bars = []
    for network, worst in found:
        label = verdict(results, network, worst.audited, None)
        rows.append([
            names[network.axes], Value(_percent(worst.accuracy), tone="" if worst.audited else "muted"),
            label, Value(_percent(worst.clean)), *_apart(worst), str(worst.threat), f"{worst.samples:,}", network.label,
        ])  # fmt: skip
        bars.append(bar(names[network.axes], worst.accuracy, worst.clean, worst.samples, label.tone))
    columns = [
        "network", "worst case, %", "audit", "clean, %", "under the study's attacks, %", "under the audit's, %",
        "they differ by, points", "ball", "images", "in the study",
    ]  # fmt: skip
    notes = ("The worst case is over the study's attacks and the audit's, image by image.",)
    table = Table.of("One row for each network", columns, rows, *notes)
    blocks: tuple[Block, ...] = (Bars("Images classified correctly, clean and in the worst case", tuple(bars)), table)
    return _sentence(results, names, found), Section("At a glance", blocks)


def bar(label: str, worst: Sequence[float], clean: Sequence[float], samples: int, tone: str = "") -> Bar:
    """Returns the bar of a network, of shares by seed; its range is that of the worst case, 95 %."""
    count, share = len(worst) * samples, float(np.mean(worst))
    low, high = interval(round(share * count), count)
    return Bar(label, 100 * share, 100 * float(np.mean(clean)), 100 * low, 100 * high, f"{_percent(worst)} %", tone)


def _percent(shares: Sequence[float]) -> str:
    return spread([100 * share for share in shares])


def _apart(worst: WorstCase) -> list[Value | str]:
    """Returns accuracy under the study's attacks alone, under the audit's, and by how much they differ."""
    if not worst.attacks_alone or not worst.audit_alone:
        return [_percent(worst.attacks_alone) if worst.attacks_alone else ABSENT, ABSENT, ABSENT]
    gap = 100 * (float(np.mean(worst.attacks_alone)) - float(np.mean(worst.audit_alone)))
    said = "the audit's lower" if gap > 0 else "the study's lower"
    return [
        _percent(worst.attacks_alone), _percent(worst.audit_alone),
        Value(f"{abs(gap):.1f}, {said}" if abs(gap) >= 0.05 else "0.0", tone="" if abs(gap) >= 0.05 else "muted"),
    ]  # fmt: skip


def _sentence(
    results: StudyResults, names: dict[tuple[str, ...], str], found: Sequence[tuple[Network, WorstCase]]
) -> str:
    audited = [(network, worst) for network, worst in found if worst.audited]
    network, worst = max(audited or found, key=lambda each: np.mean(each[1].accuracy))
    which = f"{names[network.axes]} holds out best of {len(audited or found)} networks" if len(found) > 1 else (
        f"{names[network.axes]}"
    )  # fmt: skip
    figure = (
        f"{_percent(worst.accuracy)} % of {worst.samples:,} images are classified correctly under the worst of all "
        f"attacks within {worst.threat}, {_percent(worst.clean)} % without one"
    )
    if not audited:
        return f"{which}: {figure}. No network was audited, so stronger attacks may lower this at will."
    bad = [each for each, case in audited if verdict(results, each, case.audited, None).tone == "bad"]
    if any(each is network for each in bad):
        return f"{which}: {figure}; but a check of its audit failed: stronger attacks are to be expected."
    others = f" A check failed of {len(bad)} other{'s' * (len(bad) > 1)}." if bad else ""
    return f"{which}: {figure}; no check of its audit failed.{others}"
