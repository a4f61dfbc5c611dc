"""Evasion attacks by name."""
