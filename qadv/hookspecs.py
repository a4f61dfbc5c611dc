"""The hooks a plugin may implement: one per kind of component.

A hook takes no argument and returns (or yields) descriptors from `qadv.components`; nothing heavy is imported until a
component is used. Each docstring below is one complete plugin: save it as a module, declare the module as an entry
point of the group `qadv`, install it, and `qadv list` shows what it provides.

    [project.entry-points.qadv]
    my-plugin = "my_package.plugin"
"""

from collections.abc import Iterable
from typing import Any

import pluggy

from qadv.components import KINDS, Component

PROJECT = "qadv"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

_EXAMPLES = {  # name, target and summary of a component of each kind
    "quantizer": ("pow2", "pow2:PowerOfTwo", "weights, powers of two"),
    "backbone": ("tiny-net", "nets:tiny_net", "two layers, 28x28"),
    "trainer": ("my-defense", "defense:MyTrainer", "trains with my loss"),
    "transformer": ("my-rounding", "rounding:Rounding", "rounds the weights"),
    "preprocessor": ("my-blur", "blur:Blur", "3x3 blur"),
    "postprocessor": ("my-rounder", "post:Rounder", "rounds probabilities"),
    "detector": ("my-detector", "detect:Detect", "flags high loss"),
    "attack": ("my-attack", "attack:MyAttack", "signed noise, one step"),
    "dataset": ("my-images", "data:load", "1,000 images, 3x32x32"),
    "diagnostic": ("my-measure", "measure:measure", "mean logit margin"),
    "audit-check": ("my-check", "check:MyCheck", "blur against no blur"),
    "frontend": ("my-toolkit", "frontend:MyFrontend", "layers of my toolkit"),
}
_DOCSTRING = """{about}

        import qadv
        from qadv.components import {kind}

        @qadv.hookimpl
        def {hook}():
            yield {kind}(name="{name}", target="my_package.{target}", summary="{summary}")

    `qadv new-plugin NAME --kind {word}` writes one in full, with its target and tests.
    """


def _hook(kind: type[Component]) -> Any:
    def hook() -> Iterable[Component]:
        return ()

    name, target, summary = _EXAMPLES[kind.kind]
    hook.__name__ = kind.hook
    said = {"about": (kind.__doc__ or "").rstrip(), "kind": kind.__name__, "word": kind.kind, "hook": kind.hook}
    hook.__doc__ = _DOCSTRING.format(**said, name=name, target=target, summary=summary)
    return hookspec(hook)


globals().update({kind.hook: _hook(kind) for kind in KINDS.values()})
