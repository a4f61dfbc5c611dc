"""Evasion attacks: those that ART lacks, one per file, and ART's own by name."""
