"""Plugins that hang, patch, print or take names that are not theirs, as real distributions on disk."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from qadv.errors import AmbiguousNameError, PluginError
from qadv.plugins import discover
from qadv.registry import Registry
from tests.test_plugins import GOOD, install, site  # noqa: F401

HANGS = {
    "sleeps": "import time\ntime.sleep(600)",
    "spins": "while True: pass",
    "waits": "import threading\nthreading.Lock().acquire() and threading.Event().wait()",
    "swallows": "import time\nwhile True:\n    try: time.sleep(600)\n    except Exception: pass",
    "asks-the-network": "import socket\na, b = socket.socketpair()\na.recv(1)",
    "in-a-hook": "import qadv, time\n@qadv.hookimpl\ndef qadv_attacks(): time.sleep(600)",
    "in-a-generator": (
        "import qadv, time\nfrom qadv.components import Attack\n@qadv.hookimpl\ndef qadv_attacks():\n"
        "    yield Attack(name='early', target='a:b')\n    time.sleep(600)"
    ),
}
PATCH = "import art.attacks.evasion as art\ndef mine(self, x, y=None, **kwargs): return x\n"
PATCHES = {
    "a-method": (PATCH + "art.FastGradientMethod.generate = mine", "FastGradientMethod.generate"),
    "a-wrapped-method": (
        PATCH + "import functools\nold = art.PixelAttack.generate\n"
        "@functools.wraps(old)\ndef new(*args): return old(*args)\nart.PixelAttack.generate = new",
        "PixelAttack.generate",
    ),
    "a-class": (PATCH + "class Fake(art.DeepFool): pass\nart.DeepFool = Fake", "art.attacks.evasion.DeepFool"),
    "a-function": ("import art.utils\nart.utils.to_categorical = lambda *a: None", "art.utils.to_categorical"),
    "a-property": (
        "from art.estimators.classification import PyTorchClassifier\n"
        "PyTorchClassifier.nb_classes = property(lambda self: 2)",
        "PyTorchClassifier.nb_classes",
    ),
    "qadv-itself": ("import qadv.registry\nqadv.registry.list_components = lambda *a: []", "list_components"),
}


@pytest.mark.parametrize("hang", HANGS)
def test_a_plugin_that_hangs_is_ended_and_the_rest_goes_on(site, hang, monkeypatch):  # noqa: F811
    monkeypatch.setenv("QADV_PLUGIN_SECONDS", "0.2")
    install(site.folder, hang, HANGS[hang])
    install(site.folder, "zz-good", GOOD)
    found = site()
    (fault,) = found[f"{hang}:main"].faults
    assert "took longer than 0.2 s and was ended" in fault
    assert f"QADV_DISABLE_PLUGINS={hang}" in fault
    assert [c.name for c in found[f"{hang}:main"].components] == (["early"] if hang == "in-a-generator" else [])
    assert Registry(found.values()).load("attack", "zz-good") == "loaded"


def test_strict_mode_raises_when_a_plugin_hangs(site, monkeypatch):  # noqa: F811
    monkeypatch.setenv("QADV_PLUGIN_SECONDS", "0.2")
    monkeypatch.setenv("QADV_STRICT_PLUGINS", "1")
    install(site.folder, "sleeps", HANGS["sleeps"])
    with pytest.raises(PluginError, match="took longer than"):
        site()


def test_the_command_line_ends_a_plugin_that_hangs(site):  # noqa: F811
    install(site.folder, "sleeps", HANGS["sleeps"])
    environment = os.environ | {"PYTHONPATH": str(site.folder), "QADV_PLUGIN_SECONDS": "0.5"}
    done = subprocess.run(
        [sys.executable, "-m", "qadv", "plugins", "--json"], capture_output=True, text=True, check=True, env=environment
    )
    (row,) = [row for row in json.loads(done.stdout) if row["distribution"] == "sleeps"]
    assert row["status"] == "faulty"
    assert "took longer than 0.5 s" in row["faults"][0]


def test_where_nothing_can_end_it_a_word_says_who_is_waited_for(site, monkeypatch, capfd):  # noqa: F811
    monkeypatch.setenv("QADV_PLUGIN_SECONDS", "0.1")
    install(site.folder, "slow", "import time\ntime.sleep(1)\n" + GOOD)
    found = []
    thread = threading.Thread(target=lambda: found.append(site()))  # no signal reaches another thread
    thread.start()
    thread.join()
    assert found[0]["slow:main"].status == "ok"
    assert "still waiting for plugin slow:main after 0.1 s; QADV_DISABLE_PLUGINS=slow" in capfd.readouterr().err


def test_the_alarm_of_somebody_else_is_left_alone(site, monkeypatch):  # noqa: F811
    import signal

    monkeypatch.setenv("QADV_PLUGIN_SECONDS", "0.1")
    install(site.folder, "slow", "import time\ntime.sleep(0.3)\n" + GOOD)
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert site()["slow:main"].status == "ok"
        time.sleep(0.01)
        assert rung == [True]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_after_discovery_no_alarm_is_left(site):  # noqa: F811
    import signal

    install(site.folder, "zz-good", GOOD)
    site()
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_module_may_ask_for_a_component_while_it_is_imported(site):  # noqa: F811
    """In a thread of its own, the import would wait for the lock that the import itself holds."""
    asks = "from qadv.registry import default_registry\nfound = default_registry().entries('attack')\n" + GOOD
    module = install(site.folder, "asks", asks)
    code = f"import {module}; print(module := [e.distribution for e in {module}.found if e.distribution == 'asks'])"
    environment = os.environ | {"PYTHONPATH": str(site.folder)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=50, check=False
    )  # sooner than a plugin that hangs is ended
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_none_is_refused(seconds, monkeypatch):
    monkeypatch.setenv("QADV_PLUGIN_SECONDS", seconds)
    with pytest.raises(PluginError, match="expected a number of seconds above 0"):
        discover([])


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """What one process that lists all patchers, and then loads one that patches later, finds and says."""
    folder = tmp_path_factory.mktemp("patchers")
    for name, (source, _) in PATCHES.items():
        install(folder, name, source)
    install(folder, "zz-good", "import art.attacks.evasion, art.utils\nfrom art.utils import to_categorical\n" + GOOD)
    (folder / "late_target.py").write_text(PATCH + "art.CarliniL2Method.generate = mine\nclass Late: pass\n")
    install(folder, "zz-late", GOOD.replace("{module}:value", "late_target:Late"))
    code = (
        "import json, qadv; from qadv.registry import default_registry; from qadv.plugins import note_patches\n"
        "for _ in range(3):\n"
        "    note_patches(default_registry().plugins)\n"
        "    print(json.dumps({p.distribution: p.faults for p in default_registry().plugins}))\n"
        "    qadv.load('attack', 'zz-late')"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    environment["QADV_PLUGIN_SECONDS"] = "300"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("patch", PATCHES)
def test_what_a_plugin_replaces_in_a_toolkit_is_its_fault(patch, patched):
    faults = patched[0]
    (fault,) = faults[patch]
    name = PATCHES[patch][1]
    assert f"it has replaced {name}" in fault or f".{name}: " in fault
    assert faults["zz-good"] == faults["qadv"] == []


def test_a_patch_that_comes_with_the_component_is_found_when_plugins_are_listed_again(patched):
    before, after, again = (faults["zz-late"] for faults in patched)
    assert before == [], "listing it does not patch"
    assert "has replaced" in after[0]
    assert "CarliniL2Method.generate" in after[0]
    assert again == after, "it is said once"


def test_a_name_of_qadvs_own_is_reported_and_never_taken_over(site):  # noqa: F811
    install(site.folder, "ddn", GOOD)
    found = site()
    (fault,) = found["ddn:main"].faults
    assert "'ddn' has the name of one of qadv's own" in fault
    assert "'ddn/ddn' or 'qadv/ddn'" in fault
    registry = Registry(found.values())
    with pytest.raises(AmbiguousNameError, match="'ddn/ddn' or 'qadv/ddn'"):
        registry.load("attack", "ddn")
    assert registry.load("attack", "ddn/ddn") == "loaded"
    assert registry.load("attack", "qadv/ddn").__name__ == "DDN"
    assert registry.load("attack", "spsa").__name__ == "SPSA"


def test_a_name_that_a_family_of_qadvs_stands_for_is_not_taken_over_either(site):  # noqa: F811
    install(site.folder, "resnet18", GOOD.replace("Attack", "Backbone").replace("qadv_attacks", "qadv_backbones"))
    registry = Registry(site().values())
    with pytest.raises(AmbiguousNameError, match="'resnet18/resnet18' or 'qadv/timm/resnet18'"):
        registry.load("backbone", "resnet18")
    assert registry.load("backbone", "resnet18/resnet18") == "loaded"
    assert registry.load("backbone", "qadv/timm/resnet18").args == ("resnet18",)


def test_a_distribution_that_calls_itself_qadv_is_left_out(site):  # noqa: F811
    install(site.folder, "qadv", GOOD)
    (fault,) = site()["qadv:main"].faults
    assert "calls its distribution 'qadv', which is taken" in fault
