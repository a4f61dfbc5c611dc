"""What tox installed is what its environments promise; without tox only the lists are compared."""

import importlib.util
import os
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import qadv
from qadv.registry import default_registry

pytestmark = pytest.mark.core

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLUGINS = [*sorted((ROOT / "plugins").glob("*/pyproject.toml")), ROOT / "examples" / "own_plugin" / "pyproject.toml"]
ENVIRONMENT = os.environ.get("QADV_ENVIRONMENT", "")


def only_in(*names):
    here = f"this is {ENVIRONMENT}" if ENVIRONMENT else "not run by tox"
    return pytest.mark.skipif(ENVIRONMENT.rpartition("-")[2] not in names, reason=f"of {', '.join(names)}; {here}")


def requirements(extra="test"):
    """Returns what an extra installs, those of extras that it names included, and qadv's own requirements."""
    own = [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]
    named = [each for requirement in own if requirement.name == "qadv" for each in sorted(requirement.extras)]
    found = {requirement.name: requirement for text in PROJECT["dependencies"] if (requirement := Requirement(text))}
    for each in named:
        found |= requirements(each)
    return found | {requirement.name: requirement for requirement in own if requirement.name != "qadv"}


def bound(requirement):
    """Returns the lower bound, the one thing that a requirement of qadv says."""
    (specifier,) = requirement.specifier
    assert specifier.operator == ">=", f"{requirement}: expected a lower bound alone"
    return Version(specifier.version)


def pins(name):
    """Returns the versions in a file of constraints by distribution."""
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    parts = [line.partition("#")[0].strip().split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in parts}


def installed(name):
    """Returns the installed version, without the label of a build."""
    return Version(Version(metadata.version(name)).public)


@pytest.mark.repository
def test_the_lowest_constraints_are_the_bounds_of_pyproject():
    pinned = pins("lowest")
    assert {name: pinned.get(name) for name in requirements()} == {
        name: bound(requirement) for name, requirement in requirements().items()
    }


@pytest.mark.repository
def test_the_middle_constraints_lie_above_the_bounds():
    wanted = requirements()
    assert {name for name, version in pins("middle").items() if version <= bound(wanted[name])} == set()


@only_in("lowest")
@pytest.mark.parametrize("name", requirements())
def test_the_lower_bound_is_installed(name):
    assert installed(name) == bound(requirements()[name])


@only_in("lowest")
def test_the_python_is_the_lowest():
    lowest = next(iter(SpecifierSet(PROJECT["requires-python"]))).version
    assert f"{sys.version_info.major}.{sys.version_info.minor}" == lowest


@only_in("lowest", "middle")
def test_every_constraint_is_met():
    wanted = pins(ENVIRONMENT)
    assert {name: installed(name) for name in wanted} == wanted


@only_in("core")
@pytest.mark.parametrize("module", ["torch", "torchvision", "art", "brevitas", "timm", "sklearn"])
def test_no_toolkit_can_be_imported(module):
    assert importlib.util.find_spec(module) is None


@only_in("core", "fast", "lowest", "middle", "latest")
def test_the_tests_see_the_installed_qadv_and_not_the_checkout():
    assert ROOT / "qadv" not in Path(qadv.__file__).parents


@only_in("core", "lowest", "middle", "latest")
@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_each_plugin_is_installed_as_a_wheel_and_listed_without_a_fault(path):
    name = tomllib.loads(path.read_text())["project"]["name"]
    assert not any(str(file).endswith(".pth") for file in metadata.files(name))
    (found,) = (plugin for plugin in default_registry().plugins if plugin.distribution == name)
    if ENVIRONMENT == "core":  # no toolkit is there, those of the plugins neither
        assert all(fault.endswith("(not installed)") for fault in found.faults)
    else:
        assert (found.status, found.faults) == ("ok", [])
