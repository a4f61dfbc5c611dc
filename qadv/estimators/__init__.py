"""Networks as ART estimators."""

from qadv.estimators.checks import check_images, check_labels
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.ensemble import EnsembleClassifier
from qadv.estimators.module import as_module
from qadv.estimators.query_coalescer import QueryCoalescer

__all__ = ["EnsembleClassifier", "QuantizedClassifier", "QueryCoalescer", "as_module", "check_images", "check_labels"]
