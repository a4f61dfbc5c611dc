"""Studies that tests run: tiny networks on a few digits."""

import os
from pathlib import Path

from rich.console import Console

from qadv.benchmark.cells import Cell
from qadv.benchmark.given import read_dataset
from qadv.benchmark.store import Store
from qadv.benchmark.study_file import read_study
from qadv.command_options import BenchOptions

TINY = """
title = "tiny"
datasets = ["digits"]
seeds = [0]
nb_train = 200
nb_test = 24

[backbones.mnist-cnn]
options = { image_size = 8, width = 4 }

[quantizers.float]

[quantizers.w4a4]
weights = "int:4"
activations = "relu6:4"

[defenses.none]
trainer = "dq"
options = { beta = 0.0, lr = 0.05 }
fit = { nb_epochs = 4, batch_size = 16 }

[defenses.tuned]
start = "none"
trainer = "dq"
options = { lr = 0.01 }
fit = { nb_epochs = 1, batch_size = 32 }

[attacks.fgsm]
attack = "FastGradientMethod"
options = { eps = "2/10" }
source = "each"

[measures.error-amplification]
attack = "fgsm"

[measures.gradient-similarity]

[small]
nb_test = 8

[[small.grid]]
quantizers = ["w4a4"]
defenses = ["none"]
measures = []
"""


def write_tiny(folder: Path, text: str = TINY) -> Path:
    """Writes a study file and returns its path."""
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def planned(path: Path, small: bool = False) -> list[Cell]:
    """Returns the cells of a study file on digits."""
    from qadv.benchmark.plan import plan  # it needs ART, reading a study does not

    file = read_study(path, small)
    cells = plan(file, {name: read_dataset(name, None)[0] for name in file.study.datasets}, None)
    return list({cell.key: cell for cell in cells}.values())


def options(tmp_path, text=TINY, **changes):
    study = write_tiny(tmp_path, text)
    given = {
        "study": study, "out": tmp_path / "out", "data_dir": None, "small": True, "dry_run": False,
        "jobs": 1, "threads": 1, "engine": "local", "address": None,
    }  # fmt: skip
    return BenchOptions(**{**given, **changes})


def quiet():
    return Console(file=open(os.devnull, "w"))


def records(folder):
    """Everything that a study found, by label, without what differs from run to run."""
    store = Store(folder / "out")
    found = {}
    for plan in map(store.plan, store.plan_names()):
        for cell in plan["cells"]:
            finished = store.read(cell["key"])
            record = {k: v for k, v in finished.record.items() if k not in ("seconds", "cell_seconds")}
            for epoch in record.get("history", []):
                epoch.pop("seconds")
            found[cell["label"]] = (record, finished.files)
    return found
