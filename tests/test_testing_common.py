"""The checks that all kinds share catch their offenders, and the kit tells authors what they did wrong."""

import os
import re
import sys
import warnings

import numpy as np
import pytest
import torch

from qadv.components import KINDS
from qadv.errors import InvalidInputError, UnknownNameError
from qadv.registry import default_registry
from qadv.testing import ConformanceError, checks, conformance, run_check
from qadv.testing.compare import difference
from qadv.testing.global_state import random_states, settings
from tests.planted import Offenders
from tests.test_plugins import install
from tests.test_testing_attacks import Sound
from tests.test_testing_data import margin, stripes
from tests.test_testing_defences import Darkens

ATTACKS = Offenders("attack", eps=0.2)
PREPROCESSORS = Offenders("preprocessor")
DATASETS = Offenders("dataset")
DIAGNOSTICS = Offenders("diagnostic")


def disturbs(name, disturb):
    """Returns a sound attack that disturbs something each time."""

    def generate(self, x, y=None, **kwargs):
        made = Sound.generate(self, x, y)
        disturb()
        return made

    return type(name, (Sound,), {"generate": generate})


DISTURB = {
    "torch.get_default_dtype()": lambda: torch.set_default_dtype(
        torch.float64 if torch.get_default_dtype() == torch.float32 else torch.float32
    ),
    "torch.get_num_threads()": lambda: torch.set_num_threads(3 - torch.get_num_threads()),
    "torch.is_grad_enabled()": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "torch.are_deterministic_algorithms_enabled()": lambda: torch.use_deterministic_algorithms(
        not torch.are_deterministic_algorithms_enabled(), warn_only=True
    ),
    "torch.backends.cudnn.benchmark": lambda: setattr(
        torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark
    ),
    "numpy.geterr()": lambda: np.seterr(all="ignore" if np.geterr()["divide"] == "warn" else "warn"),
    "numpy.get_printoptions()": lambda: np.set_printoptions(precision=np.get_printoptions()["precision"] + 1),
    "warnings.filters": lambda: warnings.simplefilter("ignore", type("New", (UserWarning,), {})),
    "os.environ": lambda: os.environ.update(QADV_KIT_TEST=str(len(os.environ.get("QADV_KIT_TEST", "")) + 1) * 2),
    "sys.path": lambda: sys.path.append("/nowhere"),
}


@pytest.mark.parametrize("name", DISTURB)
def test_a_changed_setting_is_named_and_mended(name):
    before, states = settings(), random_states()
    with warnings.catch_warnings(), pytest.raises(ConformanceError, match=re.escape(f"expected: {name} as it was")):
        run_check("global-state", "attack", disturbs("Disturbs", DISTURB[name]), eps=0.2)
    assert difference(before, settings()) is None
    assert difference(states, random_states()) is None


@ATTACKS.breaks("global-state", "log.txt")
class WritesALog(Sound):
    def step(self, x, labels):
        with open("log.txt", "a") as file:
            file.write("step")
        return super().step(x, labels)


ATTACKS.breaks("random-state", "the same state")(disturbs("SeedsNumpy", lambda: np.random.seed(0)))
ATTACKS.breaks("random-state", "the same state")(disturbs("SeedsTorch", lambda: torch.manual_seed(0)))


@ATTACKS.breaks("seeds", "differs")
class DrawsFromTheSystem(Sound):
    def step(self, x, labels):
        return np.clip(x + np.random.default_rng().uniform(-0.1, 0.1, x.shape).astype(np.float32), 0, 1)


@ATTACKS.breaks("seeds", "with other global seeds", seed=3)
class IgnoresItsSeed(Sound):
    def __init__(self, estimator, eps=0.2, batch_size=32, seed=None):
        super().__init__(estimator, eps, batch_size)
        self.seed = seed

    def step(self, x, labels):
        return np.clip(x + np.random.uniform(-0.1, 0.1, x.shape).astype(np.float32), 0, 1)


@ATTACKS.breaks("inputs-untouched", "differs")
class WritesIntoImages(Sound):
    def generate(self, x, y=None, **kwargs):
        x += 0.01 * (x < 0.5)
        return super().generate(x, y)


@DIAGNOSTICS.breaks("inputs-untouched", "differs")
def writes_into_labels(classifier, x, y):
    found = margin(classifier, x, y)
    y[:] = 0
    return found


@ATTACKS.breaks("shown", " at 0x")
class NoRepr(Sound):
    __repr__ = object.__repr__


@ATTACKS.breaks("shown", "NamesNoOptions()")
class NamesNoOptions(Sound):
    def __repr__(self):
        return "NamesNoOptions()"


@ATTACKS.breaks("params", "['targeted'")
class ListsNoParams(Sound):
    attack_params = ["targeted", "batch_size"]


@ATTACKS.breaks("params", "0.1")
class HalvesItsParams(Sound):
    @property
    def eps(self):
        return self._eps

    @eps.setter
    def eps(self, value):
        self._eps = value / 2


@ATTACKS.breaks("unknown-options", "as if nothing was wrong")
class TakesAnyOption(Sound):
    def __init__(self, estimator, eps=0.2, batch_size=32, **kwargs):
        super().__init__(estimator, eps, batch_size)


@DATASETS.breaks("unknown-options", "as if nothing was wrong")
def takes_any_option(data_dir=None, **options):
    return stripes()


@ATTACKS.breaks("bad-options", "as if nothing was wrong")
class TakesNaN(Sound):
    def _check_params(self):
        if self.eps <= 0:
            raise ValueError("eps: expected a number above 0")


@PREPROCESSORS.breaks("inputs-untouched", "differs")
class SquaresInPlace(Darkens):
    def __call__(self, x, y=None):
        x *= x
        return x, y


test_attack_caught = ATTACKS.test()
test_preprocessor_caught = PREPROCESSORS.test()
test_dataset_caught = DATASETS.test()
test_diagnostic_caught = DIAGNOSTICS.test()


def test_each_common_check_has_an_offender():
    planted = {check for offenders in (ATTACKS, DATASETS) for check, *_ in offenders.planted}
    common = {each.name for kind in KINDS for each in checks(kind) if each.function.__module__ == "qadv.testing.common"}
    assert common - planted == {"listed", "light"}, "these two are caught below, as distributions on disk"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An import folder for fake distributions, seen by a fresh registry."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    default_registry.cache_clear()
    yield tmp_path
    default_registry.cache_clear()


PLUGIN = """
import qadv
from qadv.components import Attack
@qadv.hookimpl
def qadv_attacks():
    yield Attack(name="planted", target="tests.test_testing_attacks:Sound"{more})
"""


def test_a_component_without_summary_is_caught(site):
    install(site, "silent", PLUGIN.replace("{more}", ""))
    with pytest.raises(ConformanceError, match="expected: a summary of one line"):
        run_check("listed", "attack", "planted")


def test_a_plugin_with_a_fault_is_caught(site):
    install(site, "faulty", PLUGIN.replace("{more}", ", summary='planted'") + "    yield 'text'\n")
    with pytest.raises(ConformanceError, match="gave a str"):
        run_check("listed", "attack", "planted")


def test_a_plugin_that_imports_torch_when_it_is_listed_is_caught(site):
    install(site, "heavy", PLUGIN.replace("{more}", ", summary='planted'") + "import torch\n")
    run_check("listed", "attack", "planted")
    with pytest.raises(ConformanceError, match="came: listing it imported torch"):
        run_check("light", "attack", "planted")


def test_an_unknown_component_is_a_failed_check_with_the_closest_names():
    with pytest.raises(ConformanceError, match="did you mean spsa"):
        run_check("listed", "attack", "spsaa")


@pytest.mark.parametrize("check", checks("preprocessor"), ids=lambda check: check.name)
def test_every_check_of_a_component_that_is_not_installed_fails_and_says_what_to_do(check):
    with pytest.raises(ConformanceError, match=r"no preprocessor 'not-there'.*\n.*pip install -e") as caught:
        run_check(check, "preprocessor", "not-there")
    assert caught.value.__cause__ is None  # so that pytest shows no traceback


def test_authors_errors_are_named_at_once():
    with pytest.raises(UnknownNameError, match="did you mean attack"):
        conformance("atack", "spsa")
    with pytest.raises(UnknownNameError, match="did you mean gradient"):
        conformance("preprocessor", "bit-depth", exempt={"gradients": "rounds"})
    with pytest.raises(InvalidInputError, match="expected a name, or a class or function, got 3"):
        run_check("contract", "attack", 3)


def test_exempt_checks_are_shown_with_their_reason():
    test = conformance("preprocessor", "bit-depth", exempt={"gradient": "rounds"})
    (mark,) = test.pytestmark
    skipped = {each.id: [m.kwargs["reason"] for m in each.marks] for each in mark.args[1] if each.marks}
    assert skipped == {"gradient": ["exempt: rounds"]}


@pytest.mark.parametrize("kind", KINDS)
def test_each_check_has_a_rule_of_one_line_and_a_name_of_its_own(kind):
    found = checks(kind)
    assert len({each.name for each in found}) == len(found) >= 10
    for each in found:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", each.name)
        assert each.rule.endswith(".")
        assert "\n" not in each.rule
