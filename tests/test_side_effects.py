"""What plugins change in the process while they are loaded: put back and named; what toolkits change is theirs."""

import os
import random
import signal
import subprocess
import sys

import pytest
import torch

from qadv.errors import PluginError
from qadv.process_state import put_back, read_settings
from qadv.registry import Registry
from tests.test_plugins import GOOD, install, site  # noqa: F401

CHANGES = {
    "the random state of random": "import random\nrandom.seed(123)",
    "the random state of numpy.random": "import numpy\nnumpy.random.seed(123)",
    "the random state of torch": "import torch\ntorch.manual_seed(123)",
    "numpy.geterr()": "import numpy\nnumpy.seterr(all='raise')",
    "torch.get_default_device()": "import torch\ntorch.set_default_device('meta')",
    "torch.get_default_dtype()": "import torch\ntorch.set_default_dtype(torch.float64)",
    "torch.is_grad_enabled()": "import torch\ntorch.set_grad_enabled(False)",
    "torch.is_anomaly_enabled()": "import torch\ntorch.autograd.set_detect_anomaly(True)",
    "torch.get_num_threads()": "import torch\ntorch.set_num_threads(torch.get_num_threads() + 1)",
    "torch.get_float32_matmul_precision()": "import torch\ntorch.set_float32_matmul_precision('medium')",
    "torch.backends.cudnn.deterministic": "import torch\ntorch.backends.cudnn.deterministic = True",
    "torch.backends.cudnn.benchmark": "import torch\ntorch.backends.cudnn.benchmark = True",
    "the working directory": "import os\nos.chdir('/')",
    "the environment variable QADV_TEST_NEW": "import os\nos.environ['QADV_TEST_NEW'] = '1'",
    "the environment variable QADV_TEST_OLD": "import os\nos.environ['QADV_TEST_OLD'] = 'other'",
    "the environment variable QADV_TEST_GONE": "import os\ndel os.environ['QADV_TEST_GONE']",
    "the handler of SIGINT": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)",
}
ALL_OF_THEM = "\n".join(CHANGES.values())
TIMM = """
import os, random
random.random()
os.environ["SET_BY_TIMM"] = "1"
"""


@pytest.fixture
def variables(monkeypatch):
    monkeypatch.setenv("QADV_TEST_OLD", "mine")
    monkeypatch.setenv("QADV_TEST_GONE", "mine")


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_is_put_back_and_named(name, variables):
    before = read_settings()
    exec(CHANGES[name], {})
    assert read_settings() != before
    assert put_back(before) == [name]
    assert read_settings() == before
    assert torch._C._len_torch_function_stack() == 0  # as `set_default_device` leaves one


def test_a_plugin_that_changes_everything_while_it_is_imported_changes_nothing(site, variables):  # noqa: F811
    install(site.folder, "changer", ALL_OF_THEM + GOOD)
    install(site.folder, "zz-good", GOOD)
    before = read_settings()
    found = site()
    assert read_settings() == before
    (fault,) = found["changer:main"].faults
    assert fault.startswith("it changed torch.get_default_device(), ")
    assert f"and {len(CHANGES) - 5} more while it was loaded, which was put back" in fault
    assert found["zz-good:main"].status == "ok"
    assert Registry(found.values()).load("attack", "changer") == "loaded"


@pytest.mark.parametrize("after", ["", "\n    raise ValueError('late')"])
def test_a_hook_that_seeds_is_named_whether_or_not_it_fails(site, after):  # noqa: F811
    seeds = GOOD.replace("    yield", "    import random\n    random.seed(0)\n    yield") + after
    install(site.folder, "seeds", seeds.replace('value = "loaded"\n', "") if after else seeds)
    state = random.getstate()
    faults = site()["seeds:main"].faults
    assert random.getstate() == state
    assert "it changed the random state of random while it was loaded" in faults[-1]


def test_strict_mode_raises_at_what_was_put_back(site, monkeypatch):  # noqa: F811
    install(site.folder, "seeds", "import random\nrandom.seed(0)")
    monkeypatch.setenv("QADV_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"plugin seeds:main 1\.2\.3: it changed the random state of random"):
        site()


@pytest.mark.parametrize("family", ["", ", family='late_seeds:names'"])
def test_a_target_that_seeds_when_it_is_imported_is_warned_of(site, family):  # noqa: F811
    (site.folder / "late_seeds.py").write_text(
        "import random\nrandom.seed(0)\nvalue = str\ndef names(): return ['one']"
    )
    install(site.folder, "late", GOOD.replace('"{module}:value"', f"'late_seeds:value'{family}"))
    registry = Registry(site().values())
    state = random.getstate()
    with pytest.warns(UserWarning, match="late/late changed the random state of random while it was loaded") as warned:
        registry.load("attack", "late/late/one" if family else "late")
    assert len(warned) == 1
    assert random.getstate() == state
    del sys.modules["late_seeds"]


def test_what_a_toolkit_changes_when_a_plugin_imports_it_is_no_fault_of_the_plugin(site):  # noqa: F811
    """Torch, imported and seeded by a plugin, is as just imported; a made-up timm's own changes stay."""
    (site.folder / "timm.py").write_text(TIMM)
    install(site.folder, "a-imports", "import timm, numpy.random\n" + GOOD)
    install(site.folder, "b-seeds", "import numpy, torch\nnumpy.random.seed(0)\ntorch.manual_seed(0)\n" + GOOD)
    code = (
        "import os, sys; from qadv.plugins import discover; found = {p.distribution: p.faults for p in discover()}\n"
        "numpy, torch = sys.modules['numpy'], sys.modules['torch']\n"
        "print(found['a-imports'], torch.initial_seed() != 0, numpy.random.get_state()[1][0] != 0)\n"
        "print(os.environ['SET_BY_TIMM'], *found['b-seeds'])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site.folder), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    first, second = done.stdout.splitlines()
    assert first == "[] True True"
    named = "the random state of numpy.random, the random state of torch"
    assert second.startswith(f"1 it changed {named} while it was loaded")


def test_a_signal_handler_that_was_not_set_in_python_is_named_though_it_cannot_be_put_back(monkeypatch):
    before = read_settings()
    (setting,) = [each for each in before if each.name == "the handler of SIGUSR1"]
    handler = before[setting]
    before[setting] = None  # as Python says of it
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert put_back(before) == ["the handler of SIGUSR1"]
    finally:
        signal.signal(signal.SIGUSR1, handler)
