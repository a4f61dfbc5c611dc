"""Every hook is documented by a complete plugin, and that plugin works as it stands there."""

import inspect
import textwrap
import types

import pluggy
import pytest

from qadv import hookspecs
from qadv.components import KINDS
from qadv.plugins import _Loader

pytestmark = pytest.mark.core
HOOKS = [name for name in vars(hookspecs) if name.startswith("qadv_")]


def test_there_is_one_hook_per_kind():
    assert sorted(HOOKS) == sorted(component.hook for component in KINDS.values())


@pytest.mark.parametrize("component_type", KINDS.values(), ids=KINDS)
def test_the_documented_plugin_works(component_type, monkeypatch):
    monkeypatch.setenv("QADV_STRICT_PLUGINS", "1")
    hook = component_type.hook
    paragraphs = inspect.getdoc(getattr(hookspecs, hook)).split("\n\n")
    start = next(i for i, text in enumerate(paragraphs) if text.startswith("    import qadv"))
    end = next(i for i in range(start, len(paragraphs)) if not paragraphs[i].startswith("    "))
    plugin = types.ModuleType("documented_plugin")
    exec(textwrap.dedent("\n\n".join(paragraphs[start:end])), vars(plugin))

    loader = _Loader(disabled=set(), seconds=60)
    loader.add("documented", "plugin", "1.0", plugin)
    (info,) = loader.plugins
    assert info.hooks == [hook]
    assert [type(component) for component in info.components] == [component_type]
    assert info.components[0].summary


def test_hooks_take_no_argument_and_return_iterables():
    for name in HOOKS:
        signature = inspect.signature(getattr(hookspecs, name))
        assert not signature.parameters
        assert "Iterable" in str(signature.return_annotation)


def test_a_hook_with_an_argument_is_refused_and_leaves_nothing_behind():
    plugin = types.ModuleType("bad")
    exec("import qadv\n@qadv.hookimpl\ndef qadv_attacks(config): return []", vars(plugin))
    loader = _Loader(disabled=set(), seconds=60)
    loader.add("bad", "plugin", "1.0", plugin)
    assert loader.plugins[0].status == "faulty"
    assert "not accepted" in loader.plugins[0].faults[0]
    assert not loader._manager.has_plugin("bad:plugin")
    assert issubclass(pluggy.PluginValidationError, Exception)


def test_a_plugin_that_still_has_reports_keeps_its_other_components():
    plugin = types.ModuleType("old")
    source = """
        import qadv
        from qadv.components import Attack, Report
        @qadv.hookimpl
        def qadv_reports(): return [Report(name="mine", target="old:report")]
        @qadv.hookimpl
        def qadv_attacks(): return [Attack(name="mine", target="old:Attack")]
    """
    with pytest.warns(UserWarning, match="nothing asks for reports any more"):
        exec(textwrap.dedent(source), vars(plugin))
    loader = _Loader(disabled=set(), seconds=60)
    loader.add("old", "plugin", "1.0", plugin)
    (info,) = loader.plugins
    assert [component.kind for component in info.components] == ["attack"]
    assert [report.name for report in plugin.qadv_reports()] == ["mine"]
    (fault,) = info.faults
    assert fault.startswith("'qadv_reports' is not a hook of qadv")
