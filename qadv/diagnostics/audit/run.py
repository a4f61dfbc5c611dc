"""`audit`: the worst case over many attacks, and twelve checks that say whether it may be believed."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any

import numpy as np
from art.attacks import EvasionAttack
from numpy.typing import NDArray
from tqdm.auto import tqdm

from qadv.checks import check_choice, check_flag, check_whole
from qadv.deployment.accelerate import accelerate
from qadv.diagnostics.attacking import check_classifiers
from qadv.diagnostics.audit.case import ATTACKS, AuditCase
from qadv.diagnostics.audit.checks.answers_repeat import is_random
from qadv.diagnostics.audit.checks.check import NumberedCheck, numbered_checks
from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.float_weights import float_network
from qadv.diagnostics.audit.result import AuditResult, CheckResult
from qadv.diagnostics.audit.settings import QUICK, THOROUGH
from qadv.diagnostics.audit.target import Images, Labels, Target
from qadv.diagnostics.audit.work import TimeLeft, Watch
from qadv.errors import InvalidInputError
from qadv.estimators.attacked import gradients_of
from qadv.estimators.checks import check_goal, check_pair
from qadv.estimators.fingerprint import fingerprint
from qadv.estimators.protocol import Classifier
from qadv.frontends.find import files, quantized_activations
from qadv.modes import evaluation_mode
from qadv.random_states import seeded
from qadv.strengths import check_eps
from qadv.tables import duration
from qadv.units import Length, Share, width

_VERIFIED_ON = 256
_BAR = "{desc}: {n_fmt} of {total_fmt} checks, {elapsed}{postfix}"


def audit(
    classifier: Classifier,
    x: Any,
    y: NDArray[Any] | None = None,
    eps: Length | str | Sequence[Length | str] = Share(8 / 255),
    *,
    norm: float | str = math.inf,
    to_zero: bool = False,
    pair: tuple[int, int] | None = None,
    pixels: str = "float",
    queries: str | None = None,
    float_parent: Classifier | None = None,
    others: Mapping[str, Classifier] | Iterable[Classifier] = (),
    adaptive: Any = None,
    simulation: Classifier | None = None,
    thorough: bool = False,
    checks: Iterable[int | str] | None = None,
    without: Iterable[int | str] = (),
    batch_size: int = 128,
    seed: int = 0,
    verbose: bool = True,
) -> AuditResult:
    """Attacks a classifier in many ways within a ball, L∞ or L2, and checks for signs that its gradients are masked.

    The checks and their rules are in docs/audit.md. Accuracy under attack is an upper bound of robustness in any case;
    a failed check says that it is not a tight one.

    Args:
        classifier: an ART `PyTorchClassifier` that gives logits, with `clip_values`, and preprocessing in torch.
        x: images, (N, *input_shape), float, within `clip_values`; a hundred or more for rules of one point. Or a
            `DataLoader` or `Dataset` of torch's, or ART's `PyTorchDataGenerator`, of so many with their labels.
        y: labels, indices (N,) or one-hot (N, nb_classes); `None` where they come with the images.
        eps: radius of the ball, in pixel values, above 0 and at most their range, also as a text, `"8/255"`; default
            8/255 of their range. Several, each larger than the one before, make a curve: what a smaller ball broke is
            broken in a larger one, and is not attacked again; the curve ends where no image is left.
        norm: of the ball, infinity or 2.
        to_zero: go on after the last `eps`, each twice the one before, until no image is left or no bound.
        pair: a class, and another that its images are to be given: only images of the first are attacked, and broken
            is what is given the second. `None` attacks all images, towards any other class.
        pixels: "uint8" counts only adversarial images that still are once rounded to the nearest 8-bit image inside
            the ball, 255 steps of `clip_values`; attacks go on past their first success then. "float" counts all.
        queries: "onnxruntime" answers attacks without gradients, by `qadv.accelerate`, where the exported graph has the
            classifier's class on 95 % of the images; what they find counts once the classifier itself confirms it.
        float_parent: the float network that the classifier was made from, as an ART classifier, for check 7. Where
            neither it nor one of `others` is given, and the classifier was quantized by qadv from a backbone's name,
            the float weights that it rounds take its place.
        others: further ART classifiers for check 7, as the same network at another bit width, by name or in order.
        adaptive: an ART evasion attack on this classifier that goes for the defense's own objective, or a function
            that makes one from a classifier, for check 10. It has to keep to the ball; what leaves is projected on it.
        simulation: the network that an audited file was made from, as an ART classifier, for check 11.
        thorough: larger budgets: see `qadv.diagnostics.audit.settings`.
        checks: those to make, by number or by name as `qadv list audit-check` has them; without it all. Each runs the
            attacks that it looks at; those with the classifier's own gradients run in any case.
        without: checks to leave out, likewise, and kinds of attacks: FGSM, PGD, Square, RayS, SPSA, N-Attack, DDN,
            noise. The checks that judge by an attack that is left out are not evaluated.
        batch_size: images in one pass.
        seed: decides everything random.
        verbose: show progress.

    Returns:
        The worst case, the checks and the attacks; `print` shows them as one table. Of several `eps` it is the result
        at the largest one that was reached, which has the others' in `smaller`.

    Raises:
        InvalidInputError: an argument is off, or `float_parent` or one of `others` takes other images or is the
            audited network itself.
    """
    batch_size, seed = check_whole("batch_size", batch_size), check_whole("seed", seed, least=0)
    thorough, verbose = check_flag("thorough", thorough), check_flag("verbose", verbose)
    pixels = check_choice("pixels", pixels, ("float", "uint8"))
    classifier = getattr(classifier, "simulation", None) or classifier  # an engine answers its attacks, not the audit
    target = Target(classifier, batch_size, targeted=pair is not None)
    radii, norm = radii_of(classifier, eps, norm, to_zero)
    x, labels = check_pair(classifier, x, y)
    x = x.astype(np.float32)
    if (labels >= target.classes).any():
        raise InvalidInputError("y: expected classes, got the ensemble's abstention")
    if pair is not None:
        x, labels, pair = of_pair(pair, x, labels, target.classes)
    named = _named(float_parent, others)
    if not named and (own := float_network(classifier)) is not None:
        named = {"its float weights": own}
    sources = {name: Target(other, batch_size, name, targeted=pair is not None) for name, other in named.items()}
    check_classifiers({"the audited network": classifier, **named}, "float_parent and others")
    if simulation is not None:
        check_classifiers({"the audited network": classifier, "the simulation": simulation}, "simulation")
        if not files(classifier.model):
            raise InvalidInputError("simulation: the audited network is one; audit a file, from_file, beside it")
    for name, other in named.items():
        if fingerprint(other) == fingerprint(classifier):
            raise InvalidInputError(
                f"{name}: it has the very weights of the audited network, so that nothing is transferred; give another "
                "network, or leave it out"
            )
    answering = None if queries is None else _queries(classifier, x, queries, target)
    settings, numbered = THOROUGH if thorough else QUICK, numbered_checks()
    chosen, spared = _chosen(checks, without, numbered)
    _check_used({"adaptive": (adaptive, "adaptive-attack"), "simulation": (simulation, "exported-model")}, chosen)
    results: list[AuditResult] = []
    cost = Cost()
    with ExitStack() as stack:
        asked = target, *sources.values(), *(() if answering is None else (answering,))
        for each in {id(t.classifier.model): t for t in asked}.values():
            stack.enter_context(evaluation_mode(each.classifier.model))
            stack.enter_context(cost.counted(each.classifier.model))
        stack.enter_context(seeded(seed))
        for each in (target, *sources.values()):
            each.check_logits(x)
        if is_random(target, x, labels, settings.passes):
            target.draws = settings.draws
        numbers = {check.number for check in chosen}
        left = TimeLeft(target, x, labels, settings, len(sources), numbers, spared) if verbose else None
        common: dict[str, Any] = {
            "norm": norm, "settings": settings, "seed": seed, "pixels": pixels, "without": spared,
        }  # fmt: skip
        given: dict[str, Any] = {
            "sources": sources, "adaptive": _factory(adaptive, target.targeted), "queries": answering,
            "simulation": simulation, "cost": cost,
        }  # fmt: skip
        for radius in radii:
            before, started = cost.copy(), time.perf_counter()
            with tqdm(total=len(chosen), desc="audit", disable=not verbose, bar_format=_BAR) as progress:
                smaller = results[-1].worst_case if results else None
                case = AuditCase(target, x, labels, eps=radius, smaller=smaller, **common, **given)
                made: list[CheckResult] = []
                if left is not None:
                    case.told = partial(_show, progress, left, Watch(left.speed, cost, len(x)), case, made)
                if len(chosen) < len(numbered):
                    _ = case.direct  # the least that a worst case is over
                for check in chosen:
                    made.append(check.run(case))
                    progress.update()
                progress.set_postfix_str("")
            worst = case.worst_case()
            results.append(
                AuditResult(
                    worst_case=worst,
                    checks=tuple(made),
                    attacks=case.attacks,
                    eps=radius,
                    samples=len(x),
                    thorough=thorough,
                    gradient=_gradient(target),
                    draws=target.draws,
                    cost=cost - before,
                    seconds=time.perf_counter() - started,
                    repaired=tuple(map(str, case.repaired)),
                    not_given=_not_given(adaptive, sources),
                    pair=pair,
                    files=files(classifier.model),
                    queries="" if answering is None else answering.name,
                    left_out=tuple(check.number for check in numbered if check not in chosen),
                    **common,
                )
            )
            if not worst.robust.any():
                break
    return replace(results[-1], smaller=tuple(results[:-1]))


def _queries(classifier: Any, x: Images, engine: str, target: Target) -> Target | None:
    if shipped := files(classifier.model):
        raise InvalidInputError(
            f"queries: the network is the file {', '.join(shipped)}, whose runtime answers all queries; leave it out"
        )
    faster = accelerate(
        classifier, x[:_VERIFIED_ON], fold_batch_norm=False, channels_last=False, engine=engine,
        batch_size=target.batch_size,
    )  # fmt: skip
    if faster.simulation is None:
        return None
    check = faster.checks[-1]
    name = f"{engine}, with the network's class on {check.equal} of {check.images} images"
    return Target(faster, target.batch_size, name, target.targeted)


def _show(
    bar: Any, left: TimeLeft, watch: Watch, case: AuditCase, made: Sequence[CheckResult], attack: str, images: int
) -> None:
    """Shows which attack runs, and how long the rest takes if the images that are left hold out to the end."""
    seconds = left.seconds(int(case.survivors.sum()), {check.number for check in made})
    seconds *= watch.slower(case.cost, images)
    bar.set_postfix_str(f"{attack}, {images} images; about {duration(seconds)} left, less if more fall")


def _chosen(
    checks: Iterable[int | str] | None, without: Iterable[int | str], numbered: Sequence[NumberedCheck]
) -> tuple[list[NumberedCheck], tuple[str, ...]]:
    """Returns the checks to make, in the order of their numbers, and the kinds of attacks to leave out."""
    known = {key: check for check in numbered for key in (check.number, str(check.number), check.entry.component.name)}
    wanted = known if checks is None else [check_choice("checks", each, known) for each in checks]
    spared = [check_choice("without", each, (*known, *ATTACKS)) for each in without]
    found = {known[each].number for each in wanted} - {known[each].number for each in spared if each in known}
    if not found and (checks is not None or spared):
        raise InvalidInputError("checks: expected a number or name, or several, got none")
    attacks = tuple(kind for kind in ATTACKS if kind in spared)
    return [check for check in numbered if check.number in found], attacks


def _check_used(given: Mapping[str, tuple[Any, str]], chosen: Sequence[NumberedCheck]) -> None:
    """Refuses what only one check looks at where that is not made."""
    names = {check.entry.component.name for check in chosen}
    for argument, (value, check) in given.items():
        if value is not None and check not in names:
            raise InvalidInputError(
                f"{argument}: only the check {check} looks at it; make that one, too, or leave it out"
            )


def estimate(classifier: Classifier, x: Images, y: Labels, shard: int, **options: Any) -> tuple[float, float]:
    """Returns the seconds of an audit in parts of `shard` images, if all images fall at once, and if all hold out.

    It measures passes of the first batch, and knows how many each check makes; `options` are those of `audit`. Where
    several radii are given it is the time of one.
    """
    asked = signature(audit).bind(classifier, x, y, **options)
    asked.apply_defaults()
    given = asked.arguments
    numbered, settings = numbered_checks(), THOROUGH if given["thorough"] else QUICK
    made, spared = _chosen(given["checks"], given["without"], numbered)
    chosen = {check.number for check in made}
    sources = len(_named(given["float_parent"], given["others"])) or (float_network(classifier) is not None)
    with evaluation_mode(classifier.model):
        target = Target(classifier, given["batch_size"])
        left = TimeLeft(target, x[:shard], y[:shard], settings, sources, chosen, spared)
    parts, images = len(x) / min(shard, len(x)), min(shard, len(x))
    return parts * left.least(images), parts * left.seconds(images)


def radii_of(
    classifier: Classifier, eps: Any, norm: Any = math.inf, to_zero: bool = False
) -> tuple[list[float], float]:
    """Returns the radii to audit at, in order, and their norm; all that are given are checked before the first."""
    norm = float(check_choice("norm", norm, (2, math.inf, "2", "inf")))
    check_flag("to_zero", to_zero)
    given = [eps] if isinstance(eps, str | Share) or np.ndim(eps) == 0 else list(eps)
    if not given:
        raise InvalidInputError("eps: expected a radius, or several, got none")
    values = math.prod(classifier.input_shape)
    radii = [check_eps("eps", each, classifier.clip_values, norm, values) for each in given]
    if any(later <= earlier for earlier, later in pairwise(radii)):
        raise InvalidInputError(f"eps: expected radii each larger than the one before, got {eps!r}")
    widest = width(classifier.clip_values) * values ** (1 / norm)
    while to_zero and radii[-1] < widest:
        radii.append(min(2 * radii[-1], widest))
    return radii, norm


def of_pair(pair: Any, x: Images, y: Labels, classes: int) -> tuple[Images, Labels, tuple[int, int]]:
    """Returns the images of the pair's first class, for each the second, and the pair."""
    try:
        source, goal = (check_whole("pair", each, least=0, most=classes - 1) for each in pair)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"pair: expected two classes from 0 to {classes - 1}, got {pair!r}") from error
    if source == goal:
        raise InvalidInputError(f"pair: expected two different classes, got {pair!r}")
    if not (y == source).any():
        raise InvalidInputError(f"pair: expected images of class {source}, and there is none among the {len(y)} given")
    return x[y == source], np.full(int((y == source).sum()), goal), (source, goal)


def _not_given(adaptive: Any, sources: Mapping[str, Any]) -> tuple[str, ...]:
    missing = {"adaptive attack": adaptive is None, "transfer source": not sources}
    return tuple(what for what, is_missing in missing.items() if is_missing)


def _named(float_parent: Classifier | None, others: Mapping[str, Classifier] | Iterable[Classifier]) -> dict[str, Any]:
    found = {} if float_parent is None else {"float parent": float_parent}
    if isinstance(others, Mapping):
        return found | {str(name): other for name, other in others.items()}
    if not isinstance(others, Iterable):
        raise InvalidInputError(f"others: expected classifiers, by name or in order, got {type(others).__name__}")
    return found | {f"network {number}": other for number, other in enumerate(others, 1)}


def _factory(adaptive: Any, targeted: bool) -> Callable[[Any], Any] | None:
    """Returns what makes the attack from the classifier; one that is given is looked at before all else."""
    if adaptive is None:
        return None
    if isinstance(adaptive, EvasionAttack):
        given = check_goal("adaptive", adaptive, targeted)
        return lambda classifier: given
    if callable(adaptive):
        return lambda classifier: check_goal("adaptive", adaptive(classifier), targeted)
    raise InvalidInputError(
        f"adaptive: expected an ART evasion attack, or a function that makes one from a classifier, got "
        f"{type(adaptive).__name__}"
    )


def _gradient(target: Target) -> str:
    classifier = target.classifier
    specs = {quantizer.scheme or f"{quantizer.bits} bit" for quantizer in quantized_activations(classifier.model)}
    if whose := gradients_of(classifier.model):
        parts = [whose]
    elif not target.has_gradient:
        parts = ["none, the network gives none of its logits with respect to its images"]
    else:
        own = f"straight-through in the activations ({', '.join(sorted(specs))})"
        parts = [own if specs else "the network's own"]
    parts += [f"through {type(defence).__name__}" for defence in classifier.preprocessing_defences or []]
    return ", ".join(parts)
