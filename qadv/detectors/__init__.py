"""Detectors of adversarial images."""
