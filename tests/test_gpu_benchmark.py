"""`benchmarks/gpu.py`, which is prepared for a machine that is seldom at hand, runs here on the CPU."""

import json
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest

from benchmarks import gpu

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(gpu.HERE)]


@pytest.fixture
def torchrun_here(monkeypatch):
    """What torchrun would start runs in this process: that it starts what it is given, tests/trainers sees."""

    def run(command, **_):
        assert command[: len(TORCHRUN)] == TORCHRUN
        names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        with monkeypatch.context() as patch:
            for name, value in names.items():
                patch.setenv(name, value)
            gpu.main(command[len(TORCHRUN) :])
        return SimpleNamespace(stderr="")

    monkeypatch.setattr(gpu.subprocess, "run", run)


@pytest.mark.slow
def test_each_section_has_its_figures(tmp_path, capsys, torchrun_here):
    gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path / "gpu.json")])
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "gpu.json").read_text())
    assert result["agreement"]
    for shares in result["agreement"].values():
        assert set(shares.values()) == {1.0}, "a CPU agrees with itself"
    assert result["waits"] == {"forward": None, "gradient": None}
    assert result["torchrun"].pop("largest_difference") < 1e-4
    assert result["torchrun"] == {"backend": "gloo", "summed": 3.0}
    assert len(result["passes"]) == 4
    assert {"vanilla", "r-fgsm, bf16, channels last"} == set(result["trainers"])


def test_without_a_gpu_it_says_what_runs(monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--device cpu --small" in capsys.readouterr().err


def test_it_starts_where_nothing_is_installed():
    command = [sys.executable, "-S", str(gpu.HERE), "--missing"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("python -m pip download")
    assert "adversarial-robustness-toolbox" in done.stdout


def test_all_that_qadv_needs_can_be_brought():
    """Every dependency is in the list, but for what the machine has."""
    project = tomllib.loads((gpu.HERE.parents[1] / "pyproject.toml").read_text())["project"]
    needed = {line.split(">=")[0] for line in project["dependencies"]}
    assert needed - set(gpu.NEEDED.values()) == {"torch", "torchvision", "timm", "numpy", "scikit-learn"}
