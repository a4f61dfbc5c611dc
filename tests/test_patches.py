"""What counts as a plugin's own within a toolkit, with toolkits and plugins made up."""

import sys
from types import ModuleType

import pytest

from qadv.patches import TOOLKITS, patched_by, replaced

pytestmark = pytest.mark.core
FUNCTION = "def mine(*args): pass\n"
TARGET = """
class Theirs:
    def method(self): pass
    @staticmethod
    def static(): pass
    @classmethod
    def of(cls): pass
    @property
    def size(self): pass
"""


def module(name, source):
    made = ModuleType(name)
    exec(source, vars(made))
    return made


@pytest.fixture
def toolkit(monkeypatch):
    """Makes a module that counts as imported."""

    def make(name, source=TARGET):
        monkeypatch.setitem(sys.modules, name, module(name, source))
        return sys.modules[name]

    return make


def test_every_toolkit_is_looked_through(toolkit):
    assert {"art", "brevitas", "timm", "qadv"} <= set(TOOLKITS)
    for name in TOOLKITS:
        toolkit(f"{name}.made_up").function = module("patcher", FUNCTION).mine
    expected = {"patcher": sorted(f"{name}.made_up.function" for name in TOOLKITS)}
    assert patched_by(["patcher", "another", ""]) == expected


@pytest.mark.parametrize(
    ("member", "wrap"), [("method", None), ("static", staticmethod), ("of", classmethod), ("size", property)]
)
def test_every_sort_of_member_is_seen_once(toolkit, member, wrap):
    theirs = toolkit("art.made_up").Theirs
    toolkit("art.reexports", "").Theirs = theirs
    mine = module("patcher", FUNCTION).mine
    setattr(theirs, member, wrap(mine) if wrap else mine)
    assert patched_by(["patcher"]) == {"patcher": [f"art.made_up.Theirs.{member}"]}


def test_all_modules_of_a_package_count_and_those_of_its_namesakes_do_not(toolkit):
    made_up = toolkit("art.made_up")
    made_up.inner = module("patcher.inner", FUNCTION).mine
    made_up.other = module("patcher_two", FUNCTION).mine
    assert patched_by(["patcher"]) == {"patcher": ["art.made_up.inner"]}


@pytest.mark.parametrize("package", ["qadv", "art", "functools"])
def test_what_toolkits_take_from_one_another_and_from_python_is_no_patch(toolkit, package):
    toolkit("timm.made_up").function = module(package, FUNCTION).mine
    assert patched_by([package]) == {}


def test_what_stands_for_a_module_without_being_one_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "art.absent", None)
    assert patched_by(["patcher"]) == {}


def test_three_names_are_said_and_the_others_counted():
    assert "has replaced a, b, c: " in replaced(list("abc"))
    assert "has replaced a, b, c and 2 more: " in replaced(list("abcde"))
