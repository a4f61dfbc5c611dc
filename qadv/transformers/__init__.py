"""Defenses that make a new classifier from a trained one, as ART transformers."""

from qadv.estimators.rebuilt import rebuilt
from qadv.transformers.network_transformer import NetworkTransformer

__all__ = ["NetworkTransformer", "rebuilt"]
