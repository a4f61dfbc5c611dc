"""Random damage of every kind is refused, healed or harmless; `benchmarks/fuzz.py` runs more of it."""

import pytest

from benchmarks.fuzzing.kinds import KINDS, SLOW
from benchmarks.fuzzing.trials import run_trials


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SLOW])
def test_two_hundred_damaged_ones(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # power cuts are not among them
    found = run_trials(kind, KINDS[kind], 200, 0, tmp_path)
    assert not found.faults
    assert found.counts["refused"] > 60
