"""What a check is, and which there are: qadv's own by their numbers, then those of plugins."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import CheckResult, Finding, Grade, Scale, Verdict
from qadv.errors import describe
from qadv.plugins import OWN_DISTRIBUTION
from qadv.random_states import seeded
from qadv.registry import Entry, default_registry


class MaskingCheck(Protocol):
    """One reason to disbelieve a figure of robustness; made without arguments.

    Attributes:
        name: what is looked at.
        rule: when it passes.

    A check may say as `attacks` which kinds it judges by, of `qadv.diagnostics.audit.case.ATTACKS`: it is not
    evaluated where the user left one of them out that would have run.
    """

    name: str
    rule: str

    def examine(self, case: AuditCase) -> Finding:
        """Returns what was found; runs the attacks it needs through the case, which shares them."""
        ...


class CountedCheck:
    """A check that counts, image by image, and judges the sums: so it judges parts of the images as one."""

    def count(self, case: AuditCase) -> dict[str, Any] | Finding:
        """Returns what adds up: numbers, lists, which are joined, and mappings of these by text; or `Finding.none`."""
        raise NotImplementedError

    def judge(self, counts: Any, of: Scale) -> Finding:
        """Returns the finding of sums over so many images."""
        raise NotImplementedError

    def examine(self, case: AuditCase) -> Finding:
        counts = self.count(case)
        return counts if isinstance(counts, Finding) else replace(self.judge(counts, case), counts=counts)


@dataclass(frozen=True)
class NumberedCheck:
    """A check of the registry under the number that tables show."""

    number: int
    entry: Entry

    def run(self, case: AuditCase) -> CheckResult:
        """Returns what the check found. A plugin's that fails is not evaluated, and costs the audit no other finding.

        Its random draws are those of the audit's seed, whatever was drawn before it.
        """
        own = self.entry.distribution == OWN_DISTRIBUTION
        name, rule = self.entry.qualified_name, self.entry.component.summary
        try:
            check: MaskingCheck = self.entry.load()()
            name, rule = str(check.name), str(check.rule)
            with seeded(case.seed):
                finding = check.examine(case if own else case.lent())
            if not isinstance(finding, Finding):
                raise TypeError(f"expected a Finding, got {type(finding).__name__}")
            if missing := [kind for kind in getattr(check, "attacks", ()) if kind in case.skipped]:
                finding = Finding.none(f"without {', '.join(missing)}, which it judges by")
            if not own:
                json.dumps(finding.values)
        except Exception as error:
            if own:
                raise
            finding = Finding.none(f"{self.entry.qualified_name} failed: {describe(error)}")
        return CheckResult(self.number, name, rule, **vars(finding))

    def over(self, parts: Sequence[CheckResult], samples: Sequence[int]) -> CheckResult:
        """Returns what the check found on all images, from what it found on parts of so many images each.

        What was counted is added up and judged anew, over the parts that it was evaluated on. A check that does not
        count, as a plugin's may, fails where it failed on a part.
        """
        seen = [(part, n) for part, n in zip(parts, samples, strict=True) if part.verdict is not Verdict.NOT_EVALUATED]
        if len(parts) == 1 or not seen:
            return parts[0]
        first = seen[0][0]
        without = sum(samples) - sum(n for _, n in seen)
        if all(part.counts for part, _ in seen):
            check: Any = self.entry.load()()
            counts: dict[str, Any] = reduce(_added, (part.counts for part, _ in seen))
            found = replace(check.judge(counts, Scale(sum(n for _, n in seen))), counts=counts)
        else:
            failed = [part for part, _ in seen if part.verdict is Verdict.FAILED]
            verdict = failed[0].verdict if failed else first.verdict
            grade = min((part.grade for part in parts), key=list(Grade).index)
            figure = "; ".join(dict.fromkeys(part.figure for part, _ in seen))
            found = Finding(verdict, figure, {"parts": [part.values for part, _ in seen]}, grade)
        if without:
            reason = next(part.figure for part in parts if part.verdict is Verdict.NOT_EVALUATED)
            found = replace(found, figure=f"{found.figure}; not evaluated on {without} images: {reason}")
        return replace(first, **vars(found))


def _added(one: Any, other: Any) -> Any:
    """Returns numbers added, lists joined, and mappings by key."""
    if isinstance(one, dict):
        both = one.keys() & other.keys()
        return {**one, **other, **{key: _added(one[key], other[key]) for key in one if key in both}}
    return one + other


def numbered_checks() -> list[NumberedCheck]:
    """Returns all installed checks, those of plugins by distribution and name, numbered after qadv's own."""
    entries = default_registry().entries("audit-check")
    own = [entry for entry in entries if entry.distribution == OWN_DISTRIBUTION]
    others = [entry for entry in entries if entry.distribution != OWN_DISTRIBUTION]
    own.sort(key=lambda entry: entry.load().number)
    ordered = own + sorted(others, key=lambda entry: (entry.distribution, entry.component.name))
    return [NumberedCheck(number, entry) for number, entry in enumerate(ordered, 1)]
