"""Names of networks as people say them: "4-bit, Defensive Quantization"."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from qadv.benchmark.report.results import AXES, StudyResults
from qadv.benchmark.study import Defense
from qadv.registry import default_registry

_PLAIN = {"int", "int-per-tensor", "relu6", "relu"}
_ONE_BIT, _TWO_BITS = {"bwn", "binary-connect", "binary-net"}, {"twn"}
Scheme = str | Mapping[str, str]


def readable_names(results: StudyResults) -> dict[tuple[str, ...], str]:
    """Returns a name for each network of a study by its axes, no two of which are the same."""
    study, found = results.study, {}
    for network in results.networks:
        dataset, backbone, quantizer, defense = network.axes
        schemes, given = study.quantizers[quantizer], study.defenses[defense]
        parts = [study.backbones[backbone].file or bits(schemes.weights, schemes.activations), defended(given)]
        parts += [backbone] if len(study.backbones) > 1 else []
        found[network.axes] = ", ".join(parts) + (f", on {dataset}" if len(study.datasets) > 1 else "")
    shared = {name for name, times in Counter(found.values()).items() if times > 1}
    return {axes: f"{name} ({_entries(results, axes)})" if name in shared else name for axes, name in found.items()}


def bits(weights: Scheme, activations: Scheme) -> str:
    """Returns what schemes are called: "float", "4-bit", "binary weights, 2-bit dorefa activations"."""
    one, other = _scheme(weights), _scheme(activations)
    return one if one == other else f"{one} weights, {other} activations"


def defended(defense: Defense) -> str:
    """Returns what was done to a network: its trainer and transformers by the first words of their summaries."""
    if defense.members:
        return f"ensemble of {', '.join(defense.members)}"
    plain = defense.trainer is None or (defense.trainer == "dq" and not defense.options.get("beta", 1))
    said = [] if plain else [_summary("trainer", str(defense.trainer))]
    said += [_summary("transformer", each.name) for each in defense.transformers]
    said += [f"behind {each.name}" for each in defense.preprocessors]
    return ", ".join(said) or "undefended"


def _entries(results: StudyResults, axes: tuple[str, ...]) -> str:
    """Returns the study's own names of what its networks differ in."""
    alike = [network.axes for network in results.networks]
    return " · ".join(axes[place] for place in range(len(AXES)) if len({each[place] for each in alike}) > 1)


def _scheme(scheme: Scheme) -> str:
    schemes: Iterable[str] = [scheme] if isinstance(scheme, str) else dict.fromkeys(scheme.values())
    return " and ".join(dict.fromkeys(map(_of_bits, schemes)))


def _of_bits(scheme: str) -> str:
    name, width = scheme.partition(":")[0], re.search(r":(\d+)", scheme)
    if name in _ONE_BIT | _TWO_BITS or scheme == "float":
        return {"float": "float"}.get(scheme, "binary" if name in _ONE_BIT else "ternary")
    said = f"{width[1]}-bit" if width else ""
    return said if said and name in _PLAIN else f"{said} {name}".strip()


def _summary(kind: str, name: str) -> str:
    """Returns the first words of a component's summary; its name, if it is not installed here."""
    own = name.rpartition("/")[2]
    entries = (entry for entry in default_registry().entries(kind) if entry.component.name == own)
    return next((entry.component.summary.partition(":")[0] for entry in entries), name)
