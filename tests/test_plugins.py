"""Real fake distributions on disk, each broken in one way: reported, and never in the way of the others."""

import json
import subprocess
import sys
from importlib import metadata

import pytest

from qadv.errors import PluginError
from qadv.plugins import discover
from qadv.registry import Registry

pytestmark = pytest.mark.core

GOOD = """
import qadv
from qadv.components import Attack
@qadv.hookimpl
def qadv_attacks():
    yield Attack(name="{name}", target="{module}:value")
value = "loaded"
"""

FAULTY = {
    "base-exception": ("class Odd(BaseException): pass\nraise Odd('not an Exception')", "Odd: not an Exception", []),
    "unprintable": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "its message can't be shown",
        [],
    ),
    "raises-plugin-error": (
        "import qadv\nfrom qadv.errors import PluginError\n@qadv.hookimpl\n"
        "def qadv_attacks(): raise PluginError('mine')",
        "PluginError: mine",
        [],
    ),
    "endless": (
        "import qadv\nfrom qadv.components import Attack\nfrom itertools import count\n@qadv.hookimpl\n"
        "def qadv_attacks():\n    return (Attack(name=f'a{i}', target='a:b') for i in count())",
        "more than 10,000 components",
        [f"a{i}" for i in range(10_000)],
    ),
    "import-error": ("raise RuntimeError('boom at import')", "RuntimeError: boom at import", []),
    "missing-module": ("import no_such_module_at_all", "no_such_module_at_all", []),
    "exits": ("raise SystemExit(3)", "SystemExit", []),
    "misspelt-hook": (
        "import qadv\nfrom qadv.components import Attack\n@qadv.hookimpl\ndef qadv_atacks(): return []\n"
        "@qadv.hookimpl\ndef qadv_attacks(): return [Attack(name='sound', target='a:b')]",
        "'qadv_atacks' is not a hook of qadv; did you mean qadv_attacks",
        ["sound"],
    ),
    "unmarked-hook": (
        "from qadv.components import Attack\ndef qadv_attacks(): return [Attack(name='x', target='a:b')]",
        "not marked with @qadv.hookimpl",
        [],
    ),
    "raising-hook": (
        "import qadv\n@qadv.hookimpl\ndef qadv_attacks(): raise ValueError('boom in hook')",
        "hook 'qadv_attacks' failed: ValueError: boom in hook",
        [],
    ),
    "late-generator": (
        "import qadv\nfrom qadv.components import Attack\n@qadv.hookimpl\ndef qadv_attacks():\n"
        "    yield Attack(name='early', target='a:b')\n    raise KeyError('late')",
        "hook 'qadv_attacks' failed: KeyError: 'late'",
        ["early"],
    ),
    "wrong-type": (
        "import qadv\nfrom qadv.components import Backbone\n@qadv.hookimpl\ndef qadv_attacks():\n"
        "    return [Backbone(name='net', target='a:b'), 'text']",
        "expected qadv.components.Attack(name=, target=)",
        [],
    ),
    "returns-none": ("import qadv\n@qadv.hookimpl\ndef qadv_attacks(): pass", "not iterable", []),
    "bad-name": (
        "import qadv\nfrom qadv.components import Attack\n@qadv.hookimpl\ndef qadv_attacks():\n"
        "    yield Attack(name='Bad Name', target='a:b')",
        "lower case words joined by hyphens",
        [],
    ),
    "bad-target": (
        "import qadv\nfrom qadv.components import Attack\n@qadv.hookimpl\ndef qadv_attacks():\n"
        "    yield Attack(name='ok', target='no colon')",
        "not of the form 'package.module:attribute'",
        [],
    ),
    "twice": (
        "import qadv\nfrom qadv.components import Attack\n@qadv.hookimpl\ndef qadv_attacks():\n"
        "    return [Attack(name='same', target='a:b'), Attack(name='same', target='c:d')]",
        "is given twice",
        ["same"],
    ),
    "unmet-requirement": (
        "import qadv\nfrom qadv.components import Attack\n@qadv.hookimpl\ndef qadv_attacks():\n"
        "    yield Attack(name='needy', target='a:b', requires=('no-such-distribution>=2', 'pluggy>=1'))",
        "needs no-such-distribution>=2 (not installed)",
        ["needy"],
    ),
}


def install(folder, distribution, source, entry_points=None, version="1.2.3"):
    """Writes a distribution as pip would leave it in site-packages."""
    module = distribution.replace("-", "_") + "_plugin"
    (folder / f"{module}.py").write_text(
        source.format(name=distribution, module=module) if "{name}" in source else source
    )
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = entry_points or [f"main = {module}"]
    (info / "entry_points.txt").write_text("[qadv]\n" + "\n".join(lines).format(module=module) + "\n")
    return module


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An import folder for fake distributions; returns a function that discovers what is in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("QADV_STRICT_PLUGINS", raising=False)
    monkeypatch.delenv("QADV_DISABLE_PLUGINS", raising=False)
    before = set(sys.modules)

    def run():
        points = [point for found in metadata.distributions(path=[str(tmp_path)]) for point in found.entry_points]
        return {f"{info.distribution}:{info.name}": info for info in discover(points)}

    run.folder = tmp_path
    yield run
    for name in set(sys.modules) - before:
        if name.endswith("_plugin"):
            del sys.modules[name]


def test_each_fault_is_reported_with_its_cause_and_the_rest_goes_on(site):
    for fault, (source, _, _) in FAULTY.items():
        install(site.folder, fault, source)
    install(site.folder, "zz-good", GOOD)
    found = site()
    for fault, (_, message, sound) in FAULTY.items():
        broken = found[f"{fault}:main"]
        assert broken.status == "faulty"
        assert broken.version == "1.2.3"
        assert message in "\n".join(broken.faults)
        assert [component.name for component in broken.components] == sound
    assert found["zz-good:main"].status == "ok"
    registry = Registry(found.values())
    assert registry.load("attack", "zz-good") == "loaded"
    assert found["qadv:builtin"].status == "ok"


@pytest.mark.parametrize("fault", FAULTY)
def test_strict_mode_raises_at_the_first_fault(site, fault, monkeypatch):
    source, message, _ = FAULTY[fault]
    install(site.folder, fault, source)
    monkeypatch.setenv("QADV_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=f"plugin {fault}:main 1.2.3") as caught:
        site()
    assert message in str(caught.value)


def test_a_half_removed_distribution_takes_nothing_down(site):
    install(site.folder, "zz-good", GOOD)
    (site.folder / "ghost_plugin.py").write_text("")
    info = site.folder / "ghost-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[qadv]\nmain = ghost_plugin\n")
    found = site()
    assert found["zz-good:main"].status == "ok"
    assert "no metadata" in found["ghost:main"].faults[0]


def test_hooks_may_have_another_name_in_the_module(site):
    source = GOOD.replace("@qadv.hookimpl\ndef qadv_attacks", "@qadv.hookimpl(specname='qadv_attacks')\ndef mine")
    install(site.folder, "renamed", source)
    info = site()["renamed:main"]
    assert info.status == "ok"
    assert [component.name for component in info.components] == ["renamed"]


def test_what_a_plugin_prints_stays_out_of_json(site):
    install(site.folder, "chatty", "print('hello')\n" + GOOD)
    code = "import sys; sys.argv = ['qadv', 'list', 'attack', '--json']; from qadv.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(site.folder)}
    )
    assert "chatty" in [row["name"] for row in json.loads(done.stdout)]
    assert "hello" in done.stderr


def test_the_same_entry_point_name_in_two_distributions_serves_both(site):
    install(site.folder, "first", GOOD, ["shared = {module}"])
    install(site.folder, "second", GOOD, ["shared = {module}"])
    found = site()
    assert found["first:shared"].status == found["second:shared"].status == "ok"
    assert Registry(found.values()).load("attack", "second") == "loaded"


def test_an_entry_point_declared_twice_by_one_distribution_is_reported_once(site):
    install(site.folder, "doubled", GOOD, ["main = {module}", "main = {module}"])
    points = [p for found in metadata.distributions(path=[str(site.folder)]) for p in found.entry_points]
    infos = [info for info in discover(points) if info.distribution == "doubled"]
    assert len(points) == 2
    assert [info.status for info in infos] == ["ok", "faulty"]
    assert "declared twice" in infos[1].faults[0]
    assert Registry(infos).load("attack", "doubled") == "loaded"


@pytest.mark.parametrize("disabled", ["main", "noisy", " other , noisy "])
def test_plugins_are_switched_off_by_name_or_distribution(site, monkeypatch, disabled):
    install(site.folder, "noisy", "raise RuntimeError('never imported')")
    monkeypatch.setenv("QADV_DISABLE_PLUGINS", disabled)
    info = site()["noisy:main"]
    assert info.status == "disabled"
    assert not info.faults
    assert "noisy_plugin" not in sys.modules


def test_the_command_line_survives_a_broken_installed_plugin(site):
    install(site.folder, "broken", "raise RuntimeError('boom')")
    code = "import sys; sys.argv = ['qadv', 'plugins', '--json']; from qadv.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(site.folder)}
    )
    assert '"status": "faulty"' in done.stdout
    assert "RuntimeError: boom" in done.stdout
