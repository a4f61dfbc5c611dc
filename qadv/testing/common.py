"""The checks for components of every kind, or of several."""

import os
import re
import subprocess
import sys
from functools import cache
from typing import Any

from qadv.registry import Entry, default_registry
from qadv.testing.case import ConformanceCase
from qadv.testing.check import NotApplicable, check, expect, expect_same, fail, refused
from qadv.testing.compare import difference
from qadv.testing.global_state import empty_folder, from_seed, random_states, settings

_HEAVY = ("torch", "art", "brevitas", "timm")
_OBJECTS = ("quantizer", "trainer", "transformer", "preprocessor", "postprocessor", "detector", "attack")
_IMPORTS_CHANGE = ("warnings.filters", "os.environ", "sys.path")  # what the first use imports may do
_WITH_PARAMS = ("attack", "detector", "preprocessor", "postprocessor", "transformer")


@check()
def listed(case: ConformanceCase) -> None:
    """`qadv list` shows it once under its name, with a summary, and its target can be imported."""
    component = _entry(case).component
    do = f"give {type(component).__name__}(name={component.name!r}, ...) one"
    expect(component.summary.strip(), "a summary of one line", repr(component.summary), do)
    expect(callable(case.target), "a class or function", repr(case.target), "correct the target in the plugin module")


@check()
def light(case: ConformanceCase) -> None:
    """Listing its plugin imports neither torch, ART, Brevitas nor timm."""
    distribution = _entry(case).distribution
    loaded = _loaded_by_listing(distribution)
    came = f"listing it imported {', '.join(loaded)}"
    do = "keep components in modules of their own, and import those in no module that the entry point imports"
    expect(not loaded, f"a plugin module of {distribution!r} that imports nothing heavy", came, do)


@check()
def global_state(case: ConformanceCase) -> None:
    """Settings of torch, numpy, warnings and the process, and the working directory, are left as they are."""
    do = "leave it alone, or restore it in a `finally`"
    with empty_folder() as folder:
        for left_out in (_IMPORTS_CHANGE, ()):
            before = settings()
            case.run()
            after = settings()
            for name in [name for name in before if name not in left_out]:
                expect_same(before[name], after[name], f"{name} as it was", do, name)
            for path in folder.iterdir():
                fail("nothing written to the working directory", path.name, "write only to paths that the user gives")


@check()
def random_state(case: ConformanceCase) -> None:
    """The global random states are not seeded anew: what the user seeded goes on deciding what is drawn later."""
    one, other = (from_seed(lambda: (case.run(), random_states()), seed)[1] for seed in (1, 2))
    for name, state in one.items():
        differs = difference(state, other[name]) is not None
        do = "draw from a generator of your own: numpy.random.default_rng(seed), torch.Generator().manual_seed(seed)"
        expected = f"a state of {name} that depends on what the user seeded it with"
        expect(differs, expected, "the same state from two seeds", do)


@check()
def seeds(case: ConformanceCase) -> None:
    """The same seed gives the same result to the bit: its own `seed`, where it takes one, else the global ones."""
    takes_one = "seed" in case.parameters and case.options.get("seed") is None
    own: dict[str, Any] = {"seed": 0} if takes_one else {}
    results = [from_seed(lambda: case.run(**own), seed) for seed in (1, 1, 2)]
    do = "draw from `seed`, or from numpy's and torch's global states; iterate over no set"
    expect_same(results[0], results[1], "the same result from the same seeds", do)
    if own or case.options.get("seed") is not None:
        do = "draw everything from generators made from `seed`"
        where = "with other global seeds, the result"
        expect_same(results[0], results[2], "a result that `seed` alone decides", do, where)


@check("attack", "trainer", "transformer", "preprocessor", "postprocessor", "detector", "diagnostic", "audit-check")
def inputs_untouched(case: ConformanceCase) -> None:
    """The arrays it is given are not written to."""
    inputs = case.inputs()
    copies = {name: array.copy() for name, array in inputs.items()}
    case.run(inputs)
    expect_same(copies, inputs, "the inputs as they were", "work on copies: x = x.copy(), tensor.clone()", "the input")


@check(*_OBJECTS)
def shown(case: ConformanceCase) -> None:
    """`repr` gives the class and the options it was made with, and no memory address."""
    component = case.make()
    text = repr(component)
    do = "write a __repr__ that can be pasted back, f'MyAttack(eps={self.eps})'; for an attack, complete attack_params"
    expect(type(component).__name__ in text, f"{type(component).__name__}(...)", text, do)
    expect(not re.search(r"\bat 0x[0-9a-f]+", text), "no memory address", text, do)
    missing = [name for name in case.options if f"{name}=" not in text]
    expect(not missing, f"a text with {', '.join(missing)}", text, do)


@check(*_WITH_PARAMS)
def params(case: ConformanceCase) -> None:
    """Each option is an attribute, is in the list that ART's `set_params` takes, and can be set to what it is."""
    component = case.make()
    lists = {"attack": "attack_params", "detector": "defence_params"}
    name = lists.get(case.kind, "params")
    known = getattr(component, name, [])
    switches = ("apply_fit", "apply_predict", "device_type", "summary_writer")  # ART's own, which it does not list
    for option, value in case.options.items():
        if option in switches:
            continue
        expect(option in known, f"{option!r} in {name}", known, f"{name} = [..., {option!r}]")
        expect(hasattr(component, option), f"an attribute {option!r}", "none", f"self.{option} = {option}")
        component.set_params(**{option: value})
        kept = getattr(component, option)
        same = difference(kept, value) is None or kept == value
        do = f"read self.{option} where it is used, and do not change its meaning"
        expect(same, f"{option}={value!r} after set_params", repr(kept), do)


@check()
def unknown_options(case: ConformanceCase) -> None:
    """An option that does not exist is refused."""
    do = "take no **kwargs, or raise for what is left of them: a misspelt option must not be ignored"
    refused(lambda: case.make(no_such_option=1), "no_such_option=1", do)


@check()
def bad_options(case: ConformanceCase) -> None:
    """An option that is NaN, or an object of no meaning, is refused when the component is made."""
    if not case.options:
        raise NotApplicable("the test gives no options")
    do = "check each option in _check_params (or the constructor): type, range and NaN, before any work is done"
    for name, value in case.options.items():
        refused(lambda name=name: case.make(**{name: _Meaningless()}), f"{name}=<an object of no meaning>", do)  # type: ignore[misc]
        if isinstance(value, int | float) and not isinstance(value, bool):
            refused(lambda name=name: case.make(**{name: float("nan")}), f"{name}=nan", do)  # type: ignore[misc]


class _Meaningless:
    """Stands for what a user gave by mistake."""

    def __repr__(self) -> str:
        return "<an object of no meaning>"


def _entry(case: ConformanceCase) -> Entry:
    if not isinstance(case.component, str):
        raise NotApplicable(f"{case.name} was given as a class or function, not by its name")
    name = case.component
    registry = default_registry()
    entries = [e for e in registry.entries(case.kind) if name in (e.component.name, e.qualified_name)]
    if not entries:
        registry.load(case.kind, name)  # raises and names the closest, unless a family has it
        raise NotApplicable(f"{name!r} is one of a family")
    own = (plugin for plugin in registry.plugins if plugin.distribution == entries[0].distribution)
    faults = [fault for plugin in own for fault in plugin.faults]
    came = f"{len(entries)} of that name; faults: {faults}"
    do = "see `qadv plugins`; name it distribution/name where two distributions have it"
    expect(len(entries) == 1 and not faults, f"one {case.kind} {name!r} from a plugin without faults", came, do)
    return entries[0]


@cache
def _loaded_by_listing(distribution: str) -> list[str]:
    others = {plugin.distribution for plugin in default_registry().plugins} - {distribution, "qadv"}
    code = (
        "import sys; from qadv.registry import default_registry; default_registry(); "
        f"print(*[name for name in {_HEAVY!r} if name in sys.modules])"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": paths, "QADV_DISABLE_PLUGINS": ",".join(sorted(others))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split()
