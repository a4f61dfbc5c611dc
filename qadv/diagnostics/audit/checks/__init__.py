"""The checks, one idea per file. Each is an object with a number, a name, a rule and `examine`; `CHECKS` lists them."""

from qadv.diagnostics.audit.checks.adaptive import AdaptiveAttack
from qadv.diagnostics.audit.checks.answers_repeat import AnswersRepeat
from qadv.diagnostics.audit.checks.black_box import BlackBox
from qadv.diagnostics.audit.checks.check import Check
from qadv.diagnostics.audit.checks.convergence import Convergence
from qadv.diagnostics.audit.checks.exported import ExportedModel
from qadv.diagnostics.audit.checks.more_work import MoreWork
from qadv.diagnostics.audit.checks.no_bound import NoBound
from qadv.diagnostics.audit.checks.other_gradients import OtherGradients
from qadv.diagnostics.audit.checks.strength import Strength
from qadv.diagnostics.audit.checks.transfer import Transfer
from qadv.diagnostics.audit.checks.zero_gradients import ZeroGradients

CHECKS: tuple[Check, ...] = (
    ZeroGradients(),
    AnswersRepeat(),
    BlackBox(),
    NoBound(),
    Strength(),
    Convergence(),
    Transfer(),
    OtherGradients(),
    MoreWork(),
    AdaptiveAttack(),
    ExportedModel(),
)
