"""Makes the attacks that a study, or a command, names."""

import warnings
from collections.abc import Mapping
from typing import Any

from qadv.benchmark.signatures import arguments
from qadv.benchmark.study import AttackSpec
from qadv.errors import InvalidInputError, QadvError
from qadv.estimators.protocol import Classifier
from qadv.estimators.query_coalescer import QueryCoalescer
from qadv.postprocessors.softmax import with_softmax
from qadv.registry import load


def build_attack(spec: AttackSpec, seed: int, classifier: Classifier, eps: float | None = None) -> Any:
    """Returns the attack of a spec, `eps` in place of its own."""
    options = spec.options | ({} if eps is None else {"eps": eps})
    if spec.probabilities:
        classifier.postprocessing_defences = with_softmax(classifier.postprocessing_defences)
    attack = made_attack(spec.attack, options, classifier)
    return QueryCoalescer(attack, seed=seed, verbose=False) if spec.coalesce else attack


def made_attack(name: str, options: Mapping[str, Any], classifier: Classifier, verbose: bool = False) -> Any:
    """Returns an attack by name, untargeted unless said (ART's Boundary is not), its progress shown if `verbose`."""
    target = load("attack", name)
    taken = arguments(target) or ()
    if options.get("max_iter") == 0:
        raise InvalidInputError(f"attack {name}: max_iter = 0 attacks nothing; give at least 1")
    said = {option: value for option, value in (("verbose", verbose), ("targeted", False)) if option in taken}
    try:
        attack = target(classifier, **{**said, **options})
    except QadvError:
        raise
    except (TypeError, ValueError) as error:  # what ART's attacks raise at options
        raise InvalidInputError(f"attack {name}: {error}") from error
    eps: Any = getattr(attack, "eps", None)
    step: Any = getattr(attack, "eps_step", None)
    numbers = isinstance(eps, float) and isinstance(step, float)
    if "eps_step" not in options and hasattr(attack, "max_iter") and numbers and step > eps:
        warnings.warn(
            f"attack {name}: its own eps_step, {step:g}, is larger than eps, {eps:.3g}, so that it searches the "
            "corners of the ball alone: give eps_step, a quarter of eps, say",
            stacklevel=2,
        )
    return attack
