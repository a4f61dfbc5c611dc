"""`qadv new-plugin` writes distributions that install, are listed, and pass the conformance kit."""

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import qadv
from qadv.cli import app
from qadv.components import KINDS
from qadv.errors import InvalidInputError, StorageError, UnknownNameError
from qadv.registry import default_registry
from qadv.scaffold.new_plugin import new_plugin

pytestmark = pytest.mark.core

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_plugin"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with one new plugin of each kind, importable, with metadata as an editable install leaves it."""
    folder = tmp_path_factory.mktemp("plugins")
    site = folder / "site"
    for kind in KINDS:
        made = new_plugin(f"qadv-my-{kind}", kind, folder)
        project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
        points = [f"{name} = {value}" for name, value in project["entry-points"]["qadv"].items()]
        (info / "entry_points.txt").write_text("\n".join(["[qadv]", *points]) + "\n")
    return folder


@pytest.fixture(scope="module")
def importable(written):
    sources = [str(written / f"qadv-my-{kind}" / "src") for kind in KINDS]
    with pytest.MonkeyPatch.context() as patch:
        for path in [str(written / "site"), *sources]:
            patch.syspath_prepend(path)
        default_registry.cache_clear()
        yield written
    default_registry.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_tests_pass(kind, importable):
    """The parametrised test of the plugin's own file is run check by check."""
    pytest.importorskip("torch")
    from qadv.testing import checks

    path = importable / f"qadv-my-{kind}" / "tests" / "test_conformance.py"
    spec = importlib.util.spec_from_file_location(f"written_{kind}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    test = getattr(module, f"test_my_{kind.replace('-', '_')}")
    (mark,) = test.pytestmark
    assert [each.id for each in mark.args[1]] == [check.name for check in checks(kind)]
    skipped = []
    for each in mark.args[1]:
        try:
            test(*each.values)
        except pytest.skip.Exception as reason:
            skipped.append(f"{each.id}: {reason}")
    assert len(skipped) <= 3, skipped


def test_each_is_listed_without_a_fault(importable):
    for kind in KINDS:
        assert f"my-{kind}" in qadv.list_components(kind)
    written = [plugin for plugin in default_registry().plugins if plugin.distribution.startswith("qadv-my-")]
    assert [plugin.faults for plugin in written] == [[]] * len(KINDS)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An import folder with a new plugin and the example one, built and installed as wheels."""
    folder = tmp_path_factory.mktemp("wheels")
    command = ["new-plugin", "qadv-shaky", "--kind", "postprocessor", "--out", str(folder)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    assert f"next: pip install -e '{folder / 'qadv-shaky'}[test]'" in result.output.replace("\n", "")
    example = shutil.copytree(EXAMPLE, folder / "example")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*pip, "--no-build-isolation", "--target", folder / "site", folder / "qadv-shaky", example])
    return folder / "site"


@pytest.mark.slow
def test_they_install_as_wheels_and_are_listed(installed):
    listed = json.loads(run([sys.executable, "-m", "qadv.cli", "plugins", "--json"], installed))
    found = {row["distribution"]: row for row in listed}
    for distribution, hooks in (
        ("qadv-shaky", ["qadv_postprocessors"]), ("qadv-pow2", ["qadv_attacks", "qadv_quantizers"]),
    ):  # fmt: skip
        assert (found[distribution]["status"], found[distribution]["hooks"]) == ("ok", hooks)


@pytest.mark.slow
def test_the_installed_example_is_used_by_name(installed, monkeypatch, capsys, request):
    pytest.importorskip("torch")
    request.getfixturevalue("short")
    monkeypatch.syspath_prepend(str(installed))
    default_registry.cache_clear()
    try:
        runpy.run_path(str(EXAMPLE / "use_it.py"))
    finally:
        default_registry.cache_clear()
    found = re.findall(r"Accuracy on (\w+) test examples: ([\d.]+)%", capsys.readouterr().out)
    assert [name for name, _ in found] == ["benign", "noisy"]
    assert float(found[0][1]) > 70


def run(command, *paths):
    path = os.pathsep.join([*map(str, paths), *filter(None, sys.path)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "name",
    ["Blur", "qadv_blur", "my blur", "", "-blur", "qadv-", "../blur", "7up", "qadv-7up", "qadv-class", "json", "qadv"],
)
def test_bad_names_are_refused(name, tmp_path):
    with pytest.raises(InvalidInputError, match="NAME: "):
        new_plugin(name, "attack", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"another attack has the name 'spsa'.* try 'qadv-my-spsa'"):
        new_plugin("qadv-spsa", "attack", tmp_path)


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "qadv-blur").mkdir()
    with pytest.raises(StorageError, match="exists already; choose another name"):
        new_plugin("qadv-blur", "attack", tmp_path)
    assert not list((tmp_path / "qadv-blur").iterdir())


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean attack"):
        new_plugin("qadv-blur", "atack", tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be written"):
        new_plugin("qadv-blur", "attack", tmp_path / "file")
