"""Postprocessors of a classifier's outputs."""
