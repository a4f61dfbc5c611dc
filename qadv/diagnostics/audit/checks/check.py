"""What a check is, and which there are: qadv's own by their numbers, then those of plugins."""

import json
from dataclasses import dataclass, replace
from typing import Any, Protocol

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import CheckResult, Finding, Scale
from qadv.errors import describe
from qadv.plugins import OWN_DISTRIBUTION
from qadv.random_states import seeded
from qadv.registry import Entry, default_registry


class MaskingCheck(Protocol):
    """One reason to disbelieve a figure of robustness; made without arguments.

    Attributes:
        name: what is looked at.
        rule: when it passes.
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
            if not own:
                json.dumps(finding.values)
        except Exception as error:
            if own:
                raise
            finding = Finding.none(f"{self.entry.qualified_name} failed: {describe(error)}")
        return CheckResult(self.number, name, rule, **vars(finding))


def numbered_checks() -> list[NumberedCheck]:
    """Returns all installed checks, those of plugins by distribution and name, numbered after qadv's own."""
    entries = default_registry().entries("audit-check")
    own = [entry for entry in entries if entry.distribution == OWN_DISTRIBUTION]
    others = [entry for entry in entries if entry.distribution != OWN_DISTRIBUTION]
    own.sort(key=lambda entry: entry.load().number)
    ordered = own + sorted(others, key=lambda entry: (entry.distribution, entry.component.name))
    return [NumberedCheck(number, entry) for number, entry in enumerate(ordered, 1)]
