"""Studies that tests run: tiny networks on a few digits."""

from pathlib import Path

from qadv.benchmark.cells import Cell
from qadv.benchmark.given import read_dataset
from qadv.benchmark.study_file import read_study

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
