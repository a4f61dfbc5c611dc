"""Measurements that explain a network's robustness, each with a function that draws it.

The measurements themselves are names of `qadv`; here are the functions that draw them. Each takes what was measured, by
name where it compares several, and `ax`, matplotlib axes to draw on (`None` makes a figure); it returns the figure.
What a check of an audit is made of is here too (hook `qadv_audit_checks`).
"""

from qadv.diagnostics.accuracy_curve import draw_accuracy_curve
from qadv.diagnostics.amplification_by_eps import draw_amplification_by_eps
from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.check import CountedCheck
from qadv.diagnostics.audit.result import Finding, Scale
from qadv.diagnostics.drawing import draw_accuracies
from qadv.diagnostics.ensemble_agreement import draw_ensemble_agreement
from qadv.diagnostics.error_amplification import draw_error_amplification
from qadv.diagnostics.error_split import draw_error_split
from qadv.diagnostics.gradient_similarity import draw_gradient_similarity
from qadv.diagnostics.transfer_matrix import draw_transfer_matrix
from qadv.diagnostics.value_shift import draw_value_shift
from qadv.diagnostics.weight_error import draw_weight_error

__all__ = [
    "AuditCase",
    "CountedCheck",
    "Finding",
    "Scale",
    "draw_accuracies",
    "draw_accuracy_curve",
    "draw_amplification_by_eps",
    "draw_ensemble_agreement",
    "draw_error_amplification",
    "draw_error_split",
    "draw_gradient_similarity",
    "draw_transfer_matrix",
    "draw_value_shift",
    "draw_weight_error",
]
