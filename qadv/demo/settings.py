"""What the demo does on each data set."""

from dataclasses import dataclass, field
from typing import Any

from qadv.checks import check_choice


@dataclass(frozen=True)
class DemoSettings:
    """Network, training and attacks of the demo.

    Attributes:
        checkpoint: file in the data folder with trained float weights to start from, where there is one.
        eps: L∞ strength of FGSM and PGD, on pixels in [0, 1]; `eps_curve` those of the accuracy-against-ε figure.
        nb_gradient, nb_black_box: test images for FGSM and PGD, and for ZOO and Boundary.
        nb_threads: torch threads, `None` for torch's own choice; networks this small are slower on several, and on a
            busy machine many times slower.
    """

    backbone: str
    options: dict[str, Any]
    nb_epochs: int
    batch_size: int
    lr: float
    nb_gradient: int
    nb_black_box: int
    zoo: dict[str, Any]
    boundary: dict[str, Any] = field(default_factory=lambda: _BOUNDARY)
    checkpoint: str | None = None
    preprocessing: tuple[Any, Any] = (0.0, 1.0)
    augment: str | None = None
    eps: float = 0.1
    eps_curve: tuple[float, ...] = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)
    nb_threads: int | None = None


_ZOO = {
    "learning_rate": 0.05,
    "binary_search_steps": 3,
    "initial_const": 1.0,
    "use_resize": False,
    "use_importance": False,
    "variable_h": 0.05,
}
_BOUNDARY: dict[str, Any] = {"max_iter": 200, "delta": 0.1, "epsilon": 0.1, "num_trial": 10, "sample_size": 10}

_SETTINGS = {
    "digits": DemoSettings(
        backbone="mnist-cnn",
        options={"image_size": 8},
        nb_epochs=40,
        batch_size=64,
        lr=0.05,
        nb_gradient=360,
        nb_black_box=12,
        zoo={**_ZOO, "max_iter": 60, "nb_parallel": 64},
        nb_threads=1,
    ),
    "mnist": DemoSettings(
        backbone="mnist-cnn",
        options={"image_size": 28},
        nb_epochs=2,
        batch_size=128,
        lr=0.05,
        nb_gradient=1000,
        nb_black_box=10,
        zoo={**_ZOO, "max_iter": 40},
    ),
    "cifar10": DemoSettings(
        backbone="resnet20",
        options={},
        checkpoint="resnet20-cifar10.safetensors",
        preprocessing=([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        nb_epochs=1,
        batch_size=128,
        lr=0.02,
        augment="crop-flip",
        eps=8 / 255,
        eps_curve=(1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255),
        nb_gradient=500,
        nb_black_box=5,
        zoo={**_ZOO, "max_iter": 30},
        boundary={**_BOUNDARY, "max_iter": 50},
    ),
}


def demo_settings(dataset: str) -> DemoSettings:
    """Returns the demo's settings for a data set."""
    return _SETTINGS[check_choice("dataset", dataset, _SETTINGS)]
