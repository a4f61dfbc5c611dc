"""Defenses that make a new classifier from a trained one, as ART transformers."""

from qadv.transformers.network_transformer import NetworkTransformer, rebuilt

__all__ = ["NetworkTransformer", "rebuilt"]
