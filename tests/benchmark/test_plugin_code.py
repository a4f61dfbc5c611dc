"""Results hang on a plugin's code, not on its version alone."""

import hashlib
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from art.attacks.evasion import ProjectedGradientDescent

import qadv
from qadv.benchmark import audit_shards, plan
from qadv.benchmark.plugin_code import code_version
from qadv.components import Attack, AuditCheck
from qadv.errors import InvalidInputError
from qadv.plugins import PluginInfo
from qadv.registry import default_registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "edited_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('is not imported')")
    (folder / "attack.py").write_text("NOISE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def plugin(*targets, version="1.0"):
    components = [Attack(name="noise", target=target) for target in targets or ["edited_package.attack:NOISE"]]
    return PluginInfo("edited", "main", version, components=components)


def test_an_edit_changes_it_and_undoing_the_edit_brings_it_back(package):
    before = code_version(plugin())
    assert before.startswith("1.0, code ")
    (package / "attack.py").write_text("NOISE = 0\n")
    assert code_version(plugin()) != before
    (package / "attack.py").write_text("NOISE = 1\n")
    assert code_version(plugin()) == before
    assert "edited_package" not in sys.modules


def test_a_new_file_changes_it_and_other_files_do_not(package):
    before = code_version(plugin())
    (package / "notes.txt").write_text("nothing")
    assert code_version(plugin()) == before
    (package / "more.py").write_text("")
    assert code_version(plugin()) != before


def test_single_modules_and_missing_ones_have_a_version_too(package):
    (package.parent / "edited_module.py").write_text("A = 1")
    one = code_version(plugin("edited_module:A"))
    (package.parent / "edited_module.py").write_text("A = 2")
    assert code_version(plugin("edited_module:A")) != one
    assert code_version(plugin("no_such_module_here:A")).startswith("1.0, code ")
    assert code_version(plugin("sys:exit")) == code_version(plugin("no_such_module_here:A"))  # has no Python file


def test_another_version_a_renamed_file_and_an_edit_in_a_folder_change_it(package):
    inner = package / "inner"
    inner.mkdir()
    (inner / "__init__.py").write_text("")
    seen = {code_version(plugin()), code_version(plugin(version="1.1"))}
    (inner / "__init__.py").write_text("A = 1")
    seen.add(code_version(plugin()))
    (package / "attack.py").rename(package / "b.py")
    seen.add(code_version(plugin()))
    assert len(seen) == 4


def test_a_file_that_moves_to_a_folder_changes_it(package):
    (package / "inner").mkdir()
    before = code_version(plugin())
    (package / "attack.py").rename(package / "inner" / "attack.py")
    assert code_version(plugin()) != before


def test_all_packages_of_the_components_count(package):
    targets = ["edited_package.attack:NOISE", "edited_module:A"]
    (package.parent / "edited_module.py").write_text("A = 1")
    before = code_version(plugin(*targets))
    assert code_version(plugin(*reversed(targets))) == before
    (package / "attack.py").write_text("NOISE = 0\n")
    one = code_version(plugin(*targets))
    (package.parent / "edited_module.py").write_text("A = 2")
    assert len({before, one, code_version(plugin(*targets))}) == 3


def test_packages_count_in_the_order_of_their_names_in_every_process(package):
    modules = [f"edited_{letter}" for letter in "cadbe"]
    for module in modules:
        (package.parent / f"{module}.py").write_text("A = 1")
    content = b"".join(module.encode() + b".py\0A = 1\0" for module in sorted(modules))
    made = code_version(plugin(*(f"{module}:A" for module in modules)))
    assert made == f"1.0, code {hashlib.sha256(content).hexdigest()[:12]}"


def test_the_order_in_which_a_folder_lists_its_files_does_not_matter(package, monkeypatch):
    before, rglob = code_version(plugin()), Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *given: sorted(rglob(*given), reverse=True))
    assert code_version(plugin()) == before


def test_the_key_of_an_audit_depends_on_the_plugins_whose_checks_it_runs(monkeypatch):
    check = AuditCheck(name="mine", target="json:dumps", summary="a check")
    plugins = [*default_registry().plugins, PluginInfo("mine", "mine", "1", components=[check])]
    monkeypatch.setattr(default_registry(), "plugins", plugins)
    assert set(plan._plugin("diagnostic", "audit")) == {"mine"}
    assert plan._plugin("diagnostic", "value-shift") == {}


def test_shards_of_an_audit_are_taken_again_only_with_the_code_that_made_them(trained, digits, monkeypatch):
    known, attack, made = default_registry().plugins, Attack(name="mine", target="json:dumps"), []

    def keys(*components, version="1", **options):
        """Returns the keys of all shards that were asked for until now."""
        plugins = [*known, PluginInfo("mine", "mine", version, components=list(components))]
        monkeypatch.setattr(default_registry(), "plugins", plugins)
        monkeypatch.setattr(audit_shards._Run, "compute", lambda run, *_: made.extend(run.cells))
        with suppress(InvalidInputError):  # nothing is computed
            qadv.audit_in_shards(trained, digits.x_test[:4], digits.y_test[:4], checks=[1], verbose=False, **options)
        return {each.key for each in made}

    plain = keys()
    assert keys(attack) == plain, "an attack that is not used"
    check = AuditCheck(name="mine", target="json:dumps", summary="a check")
    used = {"adaptive": partial(ProjectedGradientDescent, eps=0.1)}
    known_keys = [keys(check), keys(check, version="2"), keys(**used), keys(attack, **used)]
    assert [len(each) for each in known_keys] == [2, 3, 4, 5]
