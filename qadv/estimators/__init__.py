"""Networks as ART estimators."""

from qadv.estimators.classifier import QuantizedClassifier

__all__ = ["QuantizedClassifier"]
