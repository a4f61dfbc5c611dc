"""Look-up by kind and name."""

import pytest

import qadv
from qadv.components import Attack, Backbone
from qadv.errors import AmbiguousNameError, MissingRequirementError, PluginError, UnknownNameError, closest
from qadv.plugins import PluginInfo
from qadv.registry import Registry

pytestmark = pytest.mark.core


def plugin(distribution, *components):
    return PluginInfo(distribution, "main", "1.0", components=list(components))


def registry():
    return Registry(
        [
            plugin("one", Attack(name="shared", target="math:pi"), Attack(name="only-one", target="math:e")),
            plugin("two", Attack(name="shared", target="math:tau")),
        ]
    )


FAMILY = "tests.test_registry:members"


def members():
    return ["member"]


def never_asked():
    raise AssertionError("was asked")


def test_a_bare_name_resolves_when_one_distribution_has_it():
    import math

    assert registry().load("attack", "only-one") == math.e
    assert registry().load("attack", "one/only-one") == math.e


def test_a_clash_is_an_error_only_when_the_bare_name_is_used():
    import math

    with pytest.raises(AmbiguousNameError, match="'one/shared' or 'two/shared'"):
        registry().load("attack", "shared")
    assert registry().load("attack", "one/shared") == math.pi
    assert registry().load("attack", "two/shared") == math.tau
    assert [entry.qualified_name for entry in registry().match("attack", "shared")] == ["one/shared", "two/shared"]


def test_the_order_of_the_plugins_does_not_matter():
    turned = Registry(reversed(registry().plugins))
    assert turned.entries("attack") == registry().entries("attack")


def test_patterns_match_qualified_names_too():
    assert [entry.qualified_name for entry in registry().match("attack", "one/*")] == ["one/only-one", "one/shared"]


def test_a_family_of_qadv_that_can_not_be_asked_does_not_stand_in_the_way():
    import math

    absent = Attack(name="art", target="no_such_toolkit:create", family="no_such_toolkit:names")
    found = Registry([plugin("qadv", absent), plugin("one", Attack(name="own", target="math:pi"))])
    assert found.load("attack", "own") == math.pi
    with pytest.raises(UnknownNameError, match="no_such_toolkit"):
        found.load("attack", "others")


def test_an_unknown_name_gets_the_closest_matches():
    with pytest.raises(UnknownNameError, match="did you mean only-one"):
        registry().load("attack", "only-on")
    with pytest.raises(UnknownNameError, match=r"did you mean .*one/only-one"):
        registry().load("attack", "one/only-on")
    with pytest.raises(UnknownNameError, match="did you mean attack"):
        registry().load("atack", "only-one")
    with pytest.raises(UnknownNameError, match="did you mean resnet20"):
        qadv.load("backbone", "resnet-20")


def test_names_that_differ_in_capitals_alone_are_both_near():
    assert closest("oone", ["One", "two", "oNe"]) == "; did you mean One, oNe?"
    assert closest("ONE", (name for name in ["one"])) == "; did you mean one?"


def test_a_component_whose_requirement_is_missing_says_what_to_install():
    needy = Attack(name="needy", target="math:pi", requires=("no-such-thing>=2", "pluggy<0.1"))
    with pytest.raises(MissingRequirementError, match=r"pip install 'no-such-thing>=2' 'pluggy<0.1'"):
        needy.load()
    met = Attack(name="met", target="math:pi", requires=("pluggy>=1", "no-such-thing; python_version < '3'"))
    assert met.unmet_requirements() == []


def test_a_target_that_fails_to_import_is_named():
    with pytest.raises(PluginError, match="importing 'math:nothing' failed: AttributeError"):
        Attack(name="broken", target="math:nothing").load()


def test_families_stand_for_their_members():
    pytest.importorskip("timm")
    found = Registry(
        [plugin("dist", Backbone(name="timm", target="builtins:print", family="qadv.backbones.timm_models:names"))]
    )
    assert found.load("backbone", "resnet18").args == ("resnet18",)
    assert found.load("backbone", "timm/resnet18").args == ("resnet18",)
    assert found.load("backbone", "dist/timm/resnet18").args == ("resnet18",)
    with pytest.raises(UnknownNameError, match="did you mean resnet18"):
        found.load("backbone", "resnet18x")


def test_a_broken_family_does_not_stop_the_others_and_two_that_match_are_a_clash():
    pytest.importorskip("timm")
    broken = Backbone(name="aaa", target="builtins:print", family="no.such:thing")
    timm = Backbone(name="timm", target="builtins:print", family="qadv.backbones.timm_models:names")
    found = Registry([plugin("one", broken), plugin("two", timm)])
    assert found.load("backbone", "resnet18").args == ("resnet18",)
    with pytest.raises(UnknownNameError, match=r"Not asked, because they failed: one/aaa"):
        found.load("backbone", "nothing-like-it")
    clash = Registry([plugin("one", timm), plugin("two", timm)])
    with pytest.raises(AmbiguousNameError, match="'one/timm/resnet18' or 'two/timm/resnet18'"):
        clash.load("backbone", "resnet18")
    assert clash.load("backbone", "two/timm/resnet18").args == ("resnet18",)


def test_a_family_that_exits_does_not_stop_the_others():
    exits = Attack(name="aaa", target="builtins:print", family="sys:exit")
    found = Registry([plugin("one", exits), plugin("two", Attack(name="zzz", target="builtins:print", family=FAMILY))])
    assert found.load("attack", "member").args == ("member",)
    with pytest.raises(UnknownNameError, match="Not asked, because they failed: one/aaa"):
        found.load("attack", "nothing-like-it")


def test_only_a_family_of_qadvs_own_keeps_a_plugins_bare_name_from_it():
    import math

    single, family = Attack(name="member", target="math:pi"), Attack(name="all", target="builtins:print", family=FAMILY)
    assert Registry([plugin("one", single), plugin("two", family)]).load("attack", "member") == math.pi
    with pytest.raises(AmbiguousNameError, match="'one/member' or 'qadv/all/member'"):
        Registry([plugin("one", single), plugin("qadv", family)]).load("attack", "member")


def test_a_qualified_name_asks_no_family():
    import math

    asked = Attack(name="all", target="builtins:print", family="tests.test_registry:never_asked")
    found = Registry([plugin("one", Attack(name="own", target="math:pi")), plugin("qadv", asked)])
    assert found.load("attack", "one/own") == math.pi


def test_a_name_that_is_no_text_is_unknown():
    with pytest.raises(UnknownNameError, match="no attack '3'"):
        Registry([plugin("one", Attack(name="all", target="builtins:print", family=FAMILY))]).load("attack", 3)


def test_a_target_that_exits_is_an_error():
    with pytest.raises(PluginError, match="SystemExit"):
        Attack(name="exits", target="tests.exits:value").load()


def test_a_built_in_wins_over_a_family_member_of_the_same_name():
    pytest.importorskip("timm")
    assert qadv.load("backbone", "vgg16").__module__ == "qadv.backbones.vgg"
    assert qadv.load("backbone", "timm/vgg16").args == ("vgg16",)


def test_listing_takes_wildcards_as_timm_does():
    assert qadv.list_components("quantizer", "relu*") == ["relu", "relu1", "relu6"]
    assert "dq" in qadv.list_components("trainer")
    assert qadv.list_components("attack", "nothing*") == []


def test_names_of_several_distributions_are_listed_qualified(monkeypatch):
    monkeypatch.setattr("qadv.registry.default_registry", registry)
    assert qadv.list_components("attack") == ["only-one", "one/shared", "two/shared"]


def test_every_built_in_component_loads():
    pytest.importorskip("torch")
    for kind in (
        "quantizer", "backbone", "trainer", "transformer", "preprocessor", "attack", "dataset", "diagnostic",
    ):  # fmt: skip
        for name in qadv.list_components(kind):
            component = next(e.component for e in qadv.registry.default_registry().match(kind, name))
            assert callable(component.load())
            assert component.summary


def test_arts_attacks_are_found_by_class_name(make_classifier):
    pytest.importorskip("art")
    attack = qadv.create("attack", "FastGradientMethod", make_classifier(), eps=0.1)
    assert type(attack).__module__.startswith("art.attacks.evasion")
