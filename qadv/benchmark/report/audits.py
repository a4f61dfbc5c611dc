"""Audits of networks: verdicts, figures and cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qadv.benchmark.report.content import Row, Section, Table, Value
from qadv.benchmark.report.numbers import ABSENT, percent, plain_eps
from qadv.benchmark.report.results import Network, StudyResults
from qadv.diagnostics.audit.result import failed_checks

_NEEDED = {"headline", "checks", "worst_case", "eps"}
_UNGRADED = "upper bound only"  # of audits from before there were grades
_GRADES = ("gradients unusable", "not converged", _UNGRADED, "nothing against it")
TONES = {"passed": "good", "failed": "bad", "not evaluated": "muted"}


@dataclass(frozen=True)
class Audit:
    """An audit of one network of one seed; `result` as `AuditResult.to_dict` gives it, `None` where it is not there."""

    measure: str
    label: str
    seed: int
    state: str
    result: Mapping[str, Any] | None

    @property
    def radii(self) -> list[Mapping[str, Any]]:
        """The results by radius, the largest last; none where the audit is not there."""
        return [*self.result.get("smaller", ()), self.result] if self.result else []

    @property
    def failed(self) -> list[int]:
        """Numbers of the checks that failed, at any radius."""
        return [check["number"] for check in self.checks if check["verdict"] == "failed"]

    @property
    def checks(self) -> list[Mapping[str, Any]]:
        """The checks, each at the smallest radius at which it failed, or else at the largest."""
        found: dict[int, Mapping[str, Any]] = {}
        for check in (check for each in self.radii for check in each.get("checks", ())):
            if found.get(check["number"], {}).get("verdict") != "failed":
                found[check["number"]] = check
        return [found[number] for number in sorted(found)]


def is_audit(results: StudyResults, measure: str) -> bool:
    """Whether a measure is an audit: `audit` by name, or what it found looks like one."""
    name = results.study.measures[measure].diagnostic.rpartition("/")[2]
    found = [cell.record["result"] for cell in results.measured(measure) if cell.there]
    if not found:
        return name == "audit"
    return all(isinstance(result, dict) and result.keys() >= _NEEDED for result in found)


def audits_of(results: StudyResults, network: Network) -> list[Audit]:
    """Returns the audits of a network, of all seeds."""
    found = []
    for measure in filter(partial(is_audit, results), results.study.measures):
        for cell in results.measured(measure):
            if cell.axes == network.axes:
                seed = cell.place["seed"]
                label = results.seed_label(cell.axes, seed)
                found.append(Audit(measure, label, seed, cell.state, cell.record.get("result")))
    return found


def verdict(results: StudyResults, network: Network, audited: bool, headline: float | None) -> Value:
    """Returns what stands beside a worst case of a network.

    A check that failed at one strength counts at every one: it says that the gradients mislead attacks. That none
    failed is said only of figures that the audit's attacks have their part in (`audited`); beside the others stands the
    `headline`, the worst case in the same ball, 0 to 1, that they have their part in."""
    audits = audits_of(results, network)
    found = [audit for audit in audits if audit.result is not None]
    if not found:
        why = f" ({audits[0].state})" if audits else ""
        return Value(f"not audited{why}", tone="muted")
    failed = sorted({number for audit in found for number in audit.failed})
    if failed:
        grades = [each.get("grade", _UNGRADED) for audit in found if audit.failed for each in audit.radii]
        worst = min(grades, key=_GRADES.index)
        return Value(f"{worst}: {failed_checks(failed)}", tone="bad")
    if not audited:
        why = "not audited in this ball" if headline is None else f"without the audit; with it {percent(headline)}"
        return Value(why, tone="muted")
    unseen = {check["number"] for audit in found for check in audit.checks if check["verdict"] != "passed"}
    return Value(f"no check failed{f', {len(unseen)} not evaluated' if unseen else ''}", tone="good")


def audit_section(results: StudyResults) -> Section | None:
    """Returns the checks as a table, what each found, and what the audits cost; `None` where none was planned."""
    audits = [audit for network in results.networks for audit in audits_of(results, network)]
    if not audits:
        return None
    numbers = {check["number"]: check["name"] for audit in audits for check in audit.checks}
    several = len({audit.measure for audit in audits}) > 1
    rows, headlines, found = list[Row](), list[Row](), list[Row]()
    for audit in audits:
        label = f"{audit.label} ({audit.measure})" if several else audit.label
        by_number = {check["number"]: check for check in audit.checks}
        if audit.result is None:
            rows.append([label, *([Value(audit.state, tone="bad")] * len(numbers))])
            headlines.append([label, Value(f"not audited: {audit.state}", tone="bad"), *([ABSENT] * 5)])
            continue
        verdicts = (by_number[number]["verdict"] if number in by_number else "–" for number in sorted(numbers))
        rows.append([label, *(Value(text, tone=TONES.get(text, "muted")) for text in verdicts)])
        costs = [each["cost"] for each in audit.radii if "cost" in each]
        seconds = [each["seconds"] for each in audit.radii if "seconds" in each]
        figures = [f"{sum(cost[way] for cost in costs):,}" if costs else "–" for way in ("forward", "backward")]
        figures.append(f"{sum(seconds) / 60:.1f}" if seconds else "–")
        headline = Value(audit.result["headline"], tone="" if audit.result.get("passed") else "bad")
        setting = "thorough" if audit.result.get("thorough") else "quick"
        ball = f"{'L2' if audit.result.get('norm') == 2 else 'L∞'} {plain_eps(audit.result['eps'])}"
        headlines.append([label, headline, ball, setting, *figures])
        found += [
            [label, f"{check['number']} {check['name']}", check["rule"], check["figure"],
             Value(check["verdict"], tone=TONES.get(check["verdict"], ""))]
            for check in audit.checks
        ]  # fmt: skip
    columns = ["network", *(f"{number} {numbers[number]}" for number in sorted(numbers))]
    said = ["network", "headline", "ε", "setting", "forward passes", "backward passes", "minutes"]
    tables = [Table.of("What the audits say, and what they cost in passes of one image", said, headlines)]
    if numbers:
        tables.append(Table.of("Checks for masked gradients", columns, rows))
        rule = ["network", "check", "rule", "figure", "verdict"]
        tables.append(Table.of("What each check found", rule, found, folded=True))
    return Section("Audits", tuple(tables))
