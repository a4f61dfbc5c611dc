"""The trials of `benchmarks/fuzz.py`."""
