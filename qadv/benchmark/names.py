"""Checks that the names and options in a study exist; each fault has its place and the nearest name."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import torch

from qadv.attacks.families import family_of, refusal
from qadv.benchmark.signatures import arguments, default_of
from qadv.benchmark.study import Defense, Measure, Source, Start, Study, StudyQuantizer
from qadv.benchmark.study_file import Place, StudyFile
from qadv.checks import check_whole
from qadv.errors import InvalidInputError, QadvError, closest
from qadv.frontends.find import file_frontend
from qadv.quantization.scheme import parse_scheme
from qadv.registry import innermost, load
from qadv.strengths import check_eps
from qadv.trainers.adversary import Adversary
from qadv.trainers.early_stop import EarlyStop

Faults = Iterator[tuple[Place, str]]
FROM_STUDY = {  # arguments that a study gives, not its options
    "trainer": {"classifier", "checkpoint", "seed", "start", "verbose"},
    "transformer": {"classifier"},
    "attack": {"estimator", "classifier", "verbose"},
    "diagnostic": {
        "classifier", "classifiers", "x", "y", "x_adversarial", "attack", "attacks", "float_parent", "untrained",
        "x_train", "y_train", "seed", "verbose",
    },
}  # fmt: skip


def check_names(file: StudyFile) -> None:
    """Raises a `StudyError` for all names and options of a study that do not exist."""
    if found := list(faults(file.study)):
        raise file.complain(found)


def faults(study: Study) -> Faults:
    """Yields the place and the message of every name and option that does not exist."""
    for index, name in enumerate(study.datasets):
        yield from _tried(("datasets", index), innermost, name)
    for name, backbone in study.backbones.items():
        place: Place = ("backbones", name)
        if backbone.file is None:
            yield from _component("backbone", backbone.backbone, {}, (*place, "backbone"))
            continue
        if backbone.backbone or backbone.checkpoint:
            yield place, "a file says itself how it is built, and has weights: leave out backbone and checkpoint"
        if file_frontend(backbone.file) is None:
            kinds = "a network by itself, .onnx, or .tflite with the plugin qadv-litert"
            yield (*place, "file"), f"expected {kinds}; weights of a backbone by name are its checkpoint"
        yield from _known(backbone.options, ("output", "deploy"), (*place, "options"), "option of a file")
    for name, quantizer in study.quantizers.items():
        yield from _schemes(quantizer, ("quantizers", name))
        if (used := quantizer.calibration_attack) is not None:
            place = ("quantizers", name, "calibration_attack")
            if not quantizer.calibration or quantizer.weights == quantizer.activations == "float":
                yield place, "its images take the place of the calibration's: give schemes, and calibration = 1000, say"
            yield from _component("attack", used.name, used.options, place)
            yield from _evasion(used.name, place)
    for name, defense in study.defenses.items():
        yield from _defense(study, defense, ("defenses", name))
    for name, attack in study.attacks.items():
        place = ("attacks", name)
        yield from _component("attack", attack.attack, attack.options, place, "attack")
        if not any(name in (each.attack, *each.attacks) for each in study.measures.values()):
            instead = f": give it to a measure, [measures.NAME] attacks = [{name!r}]"
            yield from _evasion(attack.attack, (*place, "attack"), instead)
        if isinstance(attack.source, Source):
            yield from _selected(study, attack.source, (*place, "source"))
    for name, measure in study.measures.items():
        place = ("measures", name)
        in_its_norm = measure.attack is None  # else strengths are in the norm of the attack
        yield from _component("diagnostic", measure.diagnostic, measure.options, place, "diagnostic", in_its_norm)
        yield from _known(measure.attacks, study.attacks, (*place, "attacks"))
        yield from _known([measure.attack] if measure.attack else [], study.attacks, (*place, "attack"))
        yield from _attacked(measure, place)
    axes = ("datasets", "backbones", "quantizers", "defenses", "attacks", "measures")
    for index, grid in enumerate(study.grid):
        for axis in axes:
            yield from _known(getattr(grid, axis) or (), getattr(study, axis), ("grid", index, axis))
    for index, published in enumerate(study.published):
        yield from _selected(study, published, ("published", index))
        if published.source is not None:
            yield from _selected(study, published.source, ("published", index, "source"))
        if published.dataset is not None:
            yield from _tried(("published", index, "dataset"), innermost, published.dataset)
        yield from _known(published.accuracy, ["clean", *study.attacks], ("published", index, "accuracy"))
        yield from _known(published.distances, study.attacks, ("published", index, "distances"))
        place = ("published", index, "measured")
        yield from _known(published.measured, study.measures, place)
        for name in published.measured.keys() & study.measures.keys():
            returned = _returned(study.measures[name].diagnostic)
            yield from _known(published.measured[name], returned, (*place, name), "field of the result")


def _attacked(measure: Measure, place: Place) -> Faults:
    """Yields what is said of attacks and would have no effect."""
    try:
        taken = arguments(load("diagnostic", measure.diagnostic))
    except QadvError:  # told already
        return
    if measure.attacked and measure.attack is None:
        yield (*place, "attacked"), "it takes attacked images: say attack = …"
    if taken is None:
        return
    if measure.attacked and "x_adversarial" in taken:
        yield (*place, "attacked"), f"{measure.diagnostic} compares with the attack's images by itself: leave it out"
    if measure.attack and not measure.attacked and not {"attack", "x_adversarial"} & taken:
        yield (*place, "attack"), f"{measure.diagnostic} takes none; attacked = true gives it the attack's images"
    if measure.attacks and "attacks" not in taken:
        yield (*place, "attacks"), f"{measure.diagnostic} takes none"


def _defense(study: Study, defense: Defense, place: Place) -> Faults:
    if defense.trainer is not None:
        yield from _component("trainer", defense.trainer, defense.options, place, "trainer")
        for option, made in (("adversary", Adversary), ("early_stop", EarlyStop)):
            if isinstance(given := defense.options.get(option), dict):
                spot, known = (*place, "options", option), [field.name for field in fields(made)]
                yield from _tried(spot, check_eps, "eps", given.get("eps", made.eps), (0.0, 1.0), zero=True)
                yield from _known(given, known, spot, f"argument of qadv.{made.__name__}")
        if defense.fit is None:
            yield place, "a trainer needs fit = { nb_epochs = … }"
        else:
            yield from _epochs(defense.trainer, defense.options, defense.fit.nb_epochs, (*place, "fit"))
    elif defense.fit is not None or defense.options or defense.optimizer is not None:
        yield place, "fit, options and optimizer are for a trainer, and there is none"
    if defense.optimizer is not None:
        known = [name for name in vars(torch.optim) if name[0].isupper()]
        yield from _known([defense.optimizer.name], known, (*place, "optimizer"), "optimizer of torch.optim")
    for kind, used in (("transformer", defense.transformers), ("preprocessor", defense.preprocessors)):
        for index, component in enumerate(used):
            spot = (*place, f"{kind}s", index)
            yield from _component(kind, component.name, component.options, spot)
    if isinstance(defense.start, Start):
        yield from _known([defense.start.defense], study.defenses, (*place, "start"), "entry of defenses")
        yield from _known([defense.start.quantizer], study.quantizers, (*place, "start"), "entry of quantizers")
    elif defense.start is not None:
        yield from _known([defense.start], study.defenses, (*place, "start"), "entry of defenses")
        yield from _known([study.float_quantizer], study.quantizers, ("float_quantizer",), "entry of quantizers")
    if defense.members:
        yield from _known(defense.members, study.quantizers, (*place, "members"), "entry of quantizers")
        yield from _known([defense.of or ""], study.defenses, (*place, "of"), "entry of defenses")
        if defense.trainer or defense.start:
            yield place, "an ensemble is made of trained members: it takes no trainer and no start of its own"


def _epochs(name: str, options: dict[str, Any], nb_epochs: int, place: Place) -> Faults:
    try:
        trainer = load("trainer", name)
    except QadvError:  # a fault of its own
        return
    if option := getattr(trainer, "one_epoch_each", None):
        least = options.get(option, default_of(trainer, option, 1))
        yield from _tried((*place, "nb_epochs"), check_whole, "nb_epochs", nb_epochs, least=least)


def _returned(diagnostic: str) -> list[str]:
    """Returns the fields of what a diagnostic returns; none of one that there is not, which is a fault of its own."""
    try:
        made = get_type_hints(load("diagnostic", diagnostic))["return"]
        return [field.name for field in fields(made)]
    except (QadvError, KeyError, NameError, TypeError):
        return []


def _evasion(attack: str, place: Place, instead: str = "") -> Faults:
    """Yields a fault for an attack that makes no adversarial images."""
    try:
        family = family_of(load("attack", attack))
    except QadvError:  # told already
        return
    if family != "evasion":
        yield place, f"{refusal(attack, family)}{instead}"


def _selected(study: Study, chosen: Any, place: Place) -> Faults:
    for axis in ("backbone", "quantizer", "defense"):
        if (name := getattr(chosen, axis)) is not None:
            yield from _known([name], getattr(study, f"{axis}s"), (*place, axis))


def _known(names: Iterable[str], known: Iterable[str], place: Place, what: str = "entry") -> Faults:
    known = list(known)
    for name in names:
        if name not in known:
            yield place, f"no {what} {name!r}{closest(name, known)} There are: {', '.join(known) or 'none'}"


def _tried(place: Place, check: Callable[..., Any], *arguments: Any, **options: Any) -> Faults:
    """Yields what a check refuses."""
    try:
        check(*arguments, **options)
    except QadvError as error:
        yield place, str(error)


def _schemes(quantizer: StudyQuantizer, place: Place) -> Faults:
    for role in ("weights", "activations"):
        given = getattr(quantizer, role)
        for scheme in given.values() if isinstance(given, dict) else [given]:
            yield from _tried((*place, role), parse_scheme, scheme, role)


def _component(
    kind: str, name: str, options: dict[str, Any], place: Place, key: str | None = None, has_norm: bool = True
) -> Faults:
    """Yields the faults of a component's name and options, among them an ε above the pixels' range."""
    try:
        target = load(kind, name)
    except QadvError as error:
        yield (*place, key) if key else place, str(error)
        return
    taken, allowed = FROM_STUDY.get(kind, set()), arguments(target)
    for option in options:
        spot = (*place, "options", option)
        if option in taken:
            yield spot, f"{option!r} is given already; leave it out"
        elif allowed is not None and option not in allowed:
            known = sorted(allowed - taken)
            yield spot, f"{name} takes no option {option!r}{closest(option, known)} Options: {', '.join(known)}"
    if has_norm and options.get("norm", default_of(target, "norm", np.inf)) in ("inf", np.inf):
        eps = options.get("eps", 0)
        for each in eps if isinstance(eps, list) else [eps]:
            yield from _tried((*place, "options", "eps"), check_eps, "eps", each, (0.0, 1.0), zero=True)


def check_options(kind: str, name: str, options: dict[str, Any]) -> None:
    """Raises an `InvalidInputError` for an option that a component does not take; there may be no such component."""
    load(kind, name)
    for _, fault in _component(kind, name, options, (), has_norm=False):
        raise InvalidInputError(fault)
