"""One result of audits of parts of the images: figures are over all images, and checks judge by them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from qadv.diagnostics.audit.checks.check import numbered_checks
from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.result import AttackRecord, AuditResult, WorstCase


def merged(parts: Sequence[AuditResult], stopped: str = "") -> AuditResult:
    """Returns the result over all images of one network, in the order of the parts.

    A part whose images all fell before the last radius has no checks at those after it; its images are broken there.
    """
    curves = [(*part.smaller, part) for part in parts]
    results = []
    for radius in range(max(map(len, curves))):
        cases = [curve[min(radius, len(curve) - 1)].worst_case for curve in curves]
        broken_by = tuple(name for case in cases for name in case.broken_by)
        worst = WorstCase(broken_by, np.concatenate([case.adversarial for case in cases]))
        there = [curve[radius] for curve in curves if len(curve) > radius]
        results.append(replace(_over(there, worst), stopped=stopped))
    return replace(results[-1], smaller=tuple(results[:-1]))


def _over(parts: Sequence[AuditResult], worst: WorstCase) -> AuditResult:
    """Returns the result at one radius, of the parts that were audited there."""
    numbered, samples = {check.number: check for check in numbered_checks()}, [part.samples for part in parts]
    columns = zip(*(part.checks for part in parts), strict=True)
    first = parts[0]
    return replace(
        first,
        worst_case=worst,
        checks=tuple(numbered[column[0].number].over(column, samples) for column in columns),
        attacks=tuple(_attacks(record for part in parts for record in part.attacks)),
        samples=len(worst.broken_by),
        gradient="; ".join(dict.fromkeys(part.gradient for part in parts)),
        queries="; ".join(dict.fromkeys(part.queries for part in parts)),
        draws=max(part.draws for part in parts),
        cost=sum((part.cost for part in parts), Cost()),
        seconds=sum(part.seconds for part in parts),
        repaired=tuple(dict.fromkeys(step for part in parts for step in part.repaired)),
        smaller=(),
    )


def _attacks(records: Iterable[AttackRecord]) -> Iterable[AttackRecord]:
    found: dict[str, AttackRecord] = {}
    for each in records:
        if (known := found.get(each.name)) is not None:
            sums = {name: getattr(known, name) + getattr(each, name) for name in vars(each) if name != "name"}
            each = replace(each, **sums)
        found[each.name] = each
    return found.values()
