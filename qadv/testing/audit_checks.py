"""The checks for the checks of an audit."""

import json
from typing import Any

import numpy as np

from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.result import Finding
from qadv.diagnostics.audit.settings import FEW_STEPS
from qadv.diagnostics.audit.target import Target
from qadv.testing.case import Arrays, ConformanceCase
from qadv.testing.check import check, expect
from qadv.testing.compare import difference
from qadv.testing.materials import few
from qadv.testing.use import untouched

_EPS = 0.05


class AuditCheckCase(ConformanceCase):
    kind = "audit-check"
    of_classifier = False

    def inputs(self) -> Arrays:
        return dict(zip(("x", "y"), few(), strict=True))

    def audited(self, inputs: Arrays | None = None) -> AuditCase:
        """Returns what the check examines: a small classifier, and attacks of a few steps."""
        target = Target(self.classifier(), batch_size=64)
        return AuditCase(target, **(inputs or self.inputs()), eps=_EPS, settings=FEW_STEPS)

    def use(self, inputs: Arrays, **changes: Any) -> Any:
        finding = self.make(**changes).examine(self.audited(inputs))
        return [finding.verdict.value, finding.figure, finding.values]


@check("audit-check")
def contract(case: AuditCheckCase) -> None:
    """It is made without arguments, has texts `name` and `rule`, and `examine(case)` returns a `Finding`."""
    component = case.target()
    for name in ("name", "rule"):
        text = getattr(component, name, None)
        expect(isinstance(text, str) and text, f"a text `{name}`", repr(text), f'{name} = "..." in the class')
    finding = component.examine(case.audited())
    do = "return Finding.of(passed, figure, **values), or Finding.none(reason) where there is nothing to look at"
    expect(isinstance(finding, Finding), "a Finding", type(finding).__name__, do)
    expect(isinstance(finding.figure, str) and finding.figure, "a figure in words", repr(finding.figure), do)


@check("audit-check")
def plain_values(case: AuditCheckCase) -> None:
    """The values of its finding are plain data, which JSON gives back."""
    _, _, values = case.run()
    try:
        changed = difference(values, json.loads(json.dumps(values)), "values")
    except TypeError as error:
        changed = str(error)
    expect(changed is None, "numbers, texts, lists, and mappings by text", changed, "int(), float(), .tolist()")


@check("audit-check")
def classifiers_untouched(case: AuditCheckCase) -> None:
    """The network that it looks at is the same afterwards, and no hooks are left on it."""
    audited = case.audited()
    with untouched(audited.target.classifier.model, do="undo in a `finally` what you change"):
        case.make().examine(audited)


@check("audit-check")
def nothing_left(case: AuditCheckCase) -> None:
    """It has a finding too where no image is classified correctly, and where other attacks have broken all."""
    inputs = case.inputs()
    wrong = case.audited({**inputs, "y": (inputs["y"] + 1) % 10})
    broken = case.audited(inputs)
    broken.attack("all pixels", lambda x, y: np.where(x < 0.5, x + 1, x - 1).astype(np.float32), broken.clean)
    for each in (wrong, broken):
        case.make().examine(each)
