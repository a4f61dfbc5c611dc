"""Distributions whose metadata or entry points are damaged: named, and never in the way of the others."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

from qadv import entry_points
from qadv.components import Attack
from qadv.plugins import discover
from qadv.registry import Registry
from tests.test_plugins import GOOD, install, site  # noqa: F401

pytestmark = pytest.mark.core
DAMAGE = {
    "not-utf-8": b"[qadv]\nmain = caf\xe9\n",
    "utf-16": "[qadv]\nmain = b\n".encode("utf-16"),
    "no-value": b"[qadv]\nmain\n",
}


@pytest.fixture
def installed(site, monkeypatch):  # noqa: F811
    """Discovers what is installed in a folder of its own, through `importlib.metadata` as ever."""
    monkeypatch.setattr(sys, "path", [str(site.folder)])
    return lambda: {f"{info.distribution}:{info.name}": info for info in discover()}


@pytest.mark.parametrize("damage", DAMAGE)
def test_entry_points_that_cannot_be_read_are_named_and_the_rest_works(site, installed, damage, monkeypatch):  # noqa: F811
    install(site.folder, damage, "")
    (site.folder / f"{damage.replace('-', '_')}-1.2.3.dist-info" / "entry_points.txt").write_bytes(DAMAGE[damage])
    install(site.folder, "zz-good", GOOD)
    with pytest.raises((UnicodeDecodeError, TypeError)):
        metadata.entry_points(group="qadv")  # which is why this test is here
    found = installed()
    broken = found[f"{damage}:unknown"]
    assert (broken.status, broken.version) == ("faulty", "1.2.3")
    assert broken.faults[0].startswith("its entry points can't be read (")
    assert found["zz-good:main"].status == "ok"
    assert Registry(found.values()).load("attack", "zz-good") == "loaded"
    monkeypatch.setenv("QADV_DISABLE_PLUGINS", damage)
    assert installed()[f"{damage}:unknown"].status == "disabled"


def test_metadata_that_cannot_be_read_are_named_by_their_folder(site, installed):  # noqa: F811
    install(site.folder, "odd-author", GOOD)
    (site.folder / "odd_author-1.2.3.dist-info" / "METADATA").write_bytes(b"Name: odd-author\nAuthor: Andr\xe9\n")
    install(site.folder, "zz-good", GOOD)
    found = installed()
    assert "no metadata that can be read" in found["odd-author:main"].faults[0]
    assert found["odd-author:main"].version == "1.2.3"
    assert Registry(found.values()).load("attack", "odd-author") == "loaded"
    assert found["zz-good:main"].status == "ok"


def test_of_two_copies_of_a_distribution_the_first_on_the_path_counts_also_beside_a_damaged_one(tmp_path, monkeypatch):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        install(tmp_path / folder, "same", GOOD, version={"first": "2", "second": "1"}[folder])
    install(tmp_path / "second", "damaged", "")
    (tmp_path / "second" / "damaged-1.2.3.dist-info" / "entry_points.txt").write_bytes(b"\xff")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    points, damaged = entry_points.find_entry_points()
    assert [entry_points.origin(point.dist).version for point in points] == ["2"]
    assert [each.distribution for each in damaged] == ["damaged"]


@pytest.mark.parametrize("version", ["Version: 2.0\n", "Version: two\n", "", "Version: 2.0\nAuthor: Andr\udce9\n"])
def test_a_requirement_whose_version_cannot_be_read_is_unmet(site, installed, version):  # noqa: F811
    install(site.folder, "needed", "")
    text = f"Metadata-Version: 2.1\nName: needed\n{version}".encode(errors="surrogateescape")
    (site.folder / "needed-1.2.3.dist-info" / "METADATA").write_bytes(text)
    needs = Attack(name="needs", target="needed_plugin:value", requires=("needed>=1",))
    unmet = needs.unmet_requirements()
    assert (unmet == []) == (version == "Version: 2.0\n")
    assert all(entry.startswith("needed>=1 (installed: ") for entry in unmet)


def test_the_command_line_lists_the_damaged_one_and_says_what_fails_because_of_it(site):  # noqa: F811
    install(site.folder, "damaged", "")
    (site.folder / "damaged-1.2.3.dist-info" / "entry_points.txt").write_bytes(b"\xff")
    (site.folder / "torch.py").write_text("from importlib.metadata import entry_points\nentry_points()")  # as it does
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site.folder), *filter(None, sys.path)])}
    code = (
        "import sys; from qadv.cli import main; sys.argv = ['qadv', 'plugins', '--json']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.argv = ['qadv', 'demo', '--nb-epochs', '1']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert "damaged" in [row["distribution"] for row in json.loads(done.stdout)]
    assert done.returncode == 1
    assert "error: distribution 'damaged': its entry points can't be read" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
