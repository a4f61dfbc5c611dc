"""Fixtures: real images, small networks, one torch thread per test process."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if os.environ.get("QADV_ENVIRONMENT"):  # tox tests the qadv that it installed, not the one beside the tests
    root = str(Path(__file__).parent.parent)
    sys.path[:] = [*(path for path in sys.path if path != root), root]

import qadv
from qadv.datasets import Images

try:
    import torch
except ModuleNotFoundError:  # tox's core environment, which has none of the toolkits
    torch = None
else:
    torch.set_num_threads(1)

DATA_DIR = os.environ.get("QADV_DATA_DIR")
MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def pytest_configure() -> None:
    """ART writes a file when it is imported for the first time, and may fail if two workers are the first at once."""
    if find_spec("art") is not None and not (Path.home() / ".art" / "config.json").exists():
        import_module("art.config")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: one of those that begins last is waited for by one processor alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without torch only files that are marked as core can be imported."""
    if torch is not None:
        return None
    tests = collection_path.rglob("test_*.py") if collection_path.is_dir() else [collection_path]
    return not any("mark.core" in test.read_text() for test in tests) or None


@pytest.fixture(scope="session")
def digits() -> Images:
    return qadv.create("dataset", "digits")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with MNIST, CIFAR-10 and the trained ResNet-20; tests that ask for it carry the mark `data`."""
    if not DATA_DIR:
        pytest.skip("QADV_DATA_DIR names no folder with the image files")
    return Path(DATA_DIR)


@pytest.fixture
def make_classifier():
    """Makes small classifiers for the digits, the same for the same seed."""

    def make(weights="int:4", activations="relu6:4", seed=0, width=8, **options):
        torch.manual_seed(seed)
        settings = {"input_shape": (1, 8, 8), "image_size": 8, "width": width, **options}
        return qadv.QuantizedClassifier.from_backbone("mnist-cnn", weights=weights, activations=activations, **settings)

    return make


@pytest.fixture(scope="session")
def trained(digits):
    """A trained 4-bit classifier for the digits; not to be changed by a test."""
    torch.manual_seed(0)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", input_shape=(1, 8, 8), image_size=8, width=8, weights="int:4", activations="relu6:4"
    )
    trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=8, batch_size=64)
    assert (classifier.predict(digits.x_test).argmax(1) == digits.y_test).mean() > 0.9
    return classifier


@pytest.fixture
def short(monkeypatch, only_checks):
    """Lets scripts run as they stand in a second: trainings end after three epochs, audits take a few steps.

    They export nothing (check 11): that takes longer than all else, and tests/diagnostics/test_audit.py does it.
    """
    from qadv.diagnostics.audit import run
    from qadv.diagnostics.audit.settings import FEW_STEPS
    from qadv.trainers.loop_trainer import LoopTrainer

    fit = LoopTrainer.fit

    def fit_shortly(self, x, y=None, validation_data=None, batch_size=128, nb_epochs=20, **kwargs):
        fit(self, x, y, validation_data, batch_size, min(nb_epochs, 3), **kwargs)

    monkeypatch.setattr(LoopTrainer, "fit", fit_shortly)
    monkeypatch.setattr(run, "QUICK", FEW_STEPS)
    only_checks(lambda number: number != 11)


@pytest.fixture(scope="module", autouse=True)
def own_checks():
    """Audits make qadv's own checks, here and in processes that tests start; the plugin's has tests of its own."""
    from qadv.registry import Registry, default_registry

    whole = default_registry()
    plugin, entries = "qadv-weight-threats", Registry.entries

    def own(registry, kind):
        return [each for each in entries(registry, kind) if kind != "audit-check" or each.distribution != plugin]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "entries", own)
        patch.setenv("QADV_DISABLE_PLUGINS", plugin)
        yield
    if default_registry() is not whole:  # a test had it made anew
        default_registry.cache_clear()


@pytest.fixture
def only_checks(monkeypatch):
    """Lets audits run some of their checks only: those whose numbers a function says yes to."""
    from qadv.diagnostics.audit import run

    def choose(wanted):
        found = [check for check in run.numbered_checks() if wanted(check.number)]
        monkeypatch.setattr(run, "numbered_checks", lambda: found)

    return choose


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    """Everywhere the same random numbers, and no folder with images but what a test names."""
    monkeypatch.delenv("QADV_DATA_DIR", raising=False)
    np.random.seed(0)
    if torch is not None:
        torch.manual_seed(0)
