"""Defenses that make a new classifier from a trained one, as ART transformers."""
