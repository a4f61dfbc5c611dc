"""`benchmarks/real_size.py` runs on small images, and goes on from what is finished."""

import json
import sys

import pytest
from typer.testing import CliRunner

from qadv.testing.global_state import settings_restored


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    import real_size

    def call(*arguments):
        with settings_restored():
            result = CliRunner().invoke(real_size.app, [str(each) for each in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


@pytest.mark.skipif(sys.platform != "linux", reason="it reads its memory from /proc")
def test_each_work_has_its_figures_and_is_not_done_twice(run, tmp_path):
    options = ["--network", "resnet10t", "--size", 16, "--nb-images", 2, "--batch-size", 2, "--rounds", 1]
    run("photographs", "--out", tmp_path, *options, "--task", "PGD-20")
    file = tmp_path / "photographs.json"
    rows = json.loads(file.read_text())["rows"]
    row = rows["resnet10t, PGD-20"]
    assert row["passes"]["qadv"] == {"forward": 46, "backward": 40}, "20 steps, and predictions before and after"
    assert set(row["seconds"]) == set(row["MiB"]) == {"floor", "qadv", "ART"}
    again = run("photographs", "--out", tmp_path, *options, "--task", "accuracy")
    assert "PGD-20: done" not in again
    assert json.loads(file.read_text())["rows"]["resnet10t, PGD-20"] == row
