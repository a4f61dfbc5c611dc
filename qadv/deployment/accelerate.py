"""`accelerate`: a copy of a classifier with faster arithmetic, verified on images of one's own."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from art.attacks import EvasionAttack
from numpy.typing import NDArray
from rich.table import Table
from torch import nn

from qadv.checks import check_choice, check_number, check_whole
from qadv.deployment.engine import ENGINES, EngineForm, runtime_of
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.estimators.answers import Answers, OptionCheck, compared, values_compared
from qadv.estimators.attacked import AttackedNetwork
from qadv.estimators.checks import check_images, check_pair
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.door import prepare
from qadv.estimators.rebuilt import like
from qadv.frontends.find import form_of, frontend_of
from qadv.frontends.frontend import EvaluationForm
from qadv.modes import evaluation_mode
from qadv.quantization.form import FormOptions
from qadv.tables import as_text

_SAME_CLASS = 0.95
_FOR_RANGES = 256
_STEPS = 8  # of `confirmed`


class AcceleratedClassifier(QuantizedClassifier):
    """What `accelerate` returns: a classifier, and what was verified.

    Attributes:
        checks: how each option that was asked for answered, in the order they were tried; see `table()`.
        simulation: where an engine answers: the same network without it, which says whether an attack succeeded;
            `None` where the network answers itself.
    """

    checks: tuple[OptionCheck, ...] = ()
    simulation: "AcceleratedClassifier | None" = None

    def confirmed(
        self, x: NDArray[Any], x_adv: NDArray[Any], y: NDArray[Any], most: float = 1.2
    ) -> NDArray[np.float32]:
        """Returns adversarial images as the network itself confirms them, where it does so a little further on.

        An attack that looks for the nearest image ends where the engine changes its mind, which the network does some
        steps before or behind. Each image that it denies is moved on along its way from `x`, as far as needed; those
        that it denies all the way stay as they are. What keeps to a ball would leave it so: see `confirmed_run`.

        Args:
            x, x_adv: images and their adversarial versions, (N, *input_shape).
            y: labels that they are to lose, indices (N,) or one-hot.
            most: longest way, times that of the attack; eight steps lead there.
        """
        (x, labels), judge = check_pair(self, x, y), self.simulation or self
        if np.shape(x_adv) != x.shape:
            raise InvalidInputError(f"x_adv: expected images of shape {x.shape}, got {np.shape(x_adv)}")
        x, found = x.astype(np.float32), x_adv.astype(np.float32)
        low, high = (-np.inf, np.inf) if self.clip_values is None else self.clip_values
        denied = np.flatnonzero(judge.predict(found).argmax(1) == labels)
        for factor in np.linspace(1, check_number("most", most, least=1, zero=True), _STEPS + 1)[1:]:
            if not len(denied):
                break
            further = np.clip(x[denied] + np.float32(factor) * (x_adv[denied] - x[denied]), low, high)
            holds = judge.predict(further).argmax(1) != labels[denied]
            found[denied[holds]], denied = further[holds], denied[~holds]
        return found

    def confirmed_run(
        self, attack: Callable[[QuantizedClassifier], EvasionAttack], x: NDArray[Any], y: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Returns what an attack finds with the engine, and with the network itself where that denies a success.

        For attacks that keep to a ball (Square, SPSA, N-Attack), which end where the engine is deceived: counted by
        the network, they would seem weaker than they are.

        Args:
            attack: returns the attack on a classifier: on this one, and on `simulation`.
            x, y: images, (N, *input_shape), and labels as the attack takes them, indices (N,) or one-hot.

        Raises:
            InvalidInputError: `attack` is an attack, made for one classifier, and not a function that makes it.
        """
        if not callable(attack):
            raise InvalidInputError(
                "attack: expected a function that returns the attack on a classifier, e.g. functools.partial(Square, "
                f"eps=0.1), got {type(attack).__name__}"
            )
        (x, labels), made = check_pair(self, x, y), attack(self)
        found = np.array(made.generate(x, y), dtype=np.float32)
        if self.simulation is None:
            return found
        hit, confirmed = ((net.predict(found).argmax(1) == labels) == made.targeted for net in (self, self.simulation))
        if (denied := hit & ~confirmed).any():
            found[denied] = attack(self.simulation).generate(x[denied], np.asarray(y)[denied])
        return found

    def table(self) -> Table:
        """Returns `checks` as a rich table."""
        table = Table(
            "option", "logits error", "gradient error", "images equal", "classes changed", "forward", "gradient", ""
        )  # fmt: skip
        for check in self.checks:
            table.add_row(
                check.option, f"{check.logits_error:.1e}", f"{check.gradient_error:.1e}",
                f"{check.equal} of {check.images}", str(check.changed), f"{check.forward_speed:.2f} x",
                f"{check.gradient_speed:.2f} x", "kept" if check.kept else "left off",
            )  # fmt: skip
        return table

    def __str__(self) -> str:
        return as_text(self.table(), width=120)


def accelerate(
    classifier: QuantizedClassifier,
    x: NDArray[Any],
    *,
    fold_batch_norm: bool = True,
    channels_last: bool = True,
    bound: float = 1e-4,
    share: float | None = None,
    batch_size: int = 128,
    engine: str | None = None,
) -> AcceleratedClassifier:
    """Returns a copy of a classifier that is computed with those of the wanted options that keep its answers.

    Classifiers of quantized networks have both options without asking, verified on a few images; this is for a bound
    and images of your own, and for any network. The options are tried one after the other, in the order below, each on
    top of those that were kept. One that changes answers by more than the bound is left off, with a warning that has
    the figures; all figures are in the result's `checks`. What was verified was verified on `x`: give images like
    those that the attack will ask about.

    Args:
        classifier: any; it is untouched, and later changes of it do not reach the copy.
        x: images to verify with, (N, *input_shape) in `clip_values`.
        fold_batch_norm: BatchNorms become part of the layers before them; not in what other toolkits quantized.
        channels_last: weights and activations lie in memory with their channels last; as above.
        bound: largest relative error of an image's logits and of its gradient, see `OptionCheck`.
        share: part of the images, in (0, 1], that must be equal: both errors within `bound`, and the same class. In a
            quantized network a difference in the last bit moves an activation that lies on a rounding threshold by a
            whole step, and that image's logits by percents; a share below 1 allows a few of these. `None` is 1, and
            0.95 for an engine, where equal are images of the same class.
        batch_size: images in one pass.
        engine: "onnxruntime" answers what is asked without a gradient by the integer graph that `qadv.export` writes,
            the ranges of which come from `x`; gradients, and the values that come with them, stay the network's own.
            What an attack finds so is confirmed by the result's `simulation`. `None` for the network itself.

    Raises:
        InvalidInputError: images or another argument are off.
        UnsupportedModelError: the network's own answers are NaN, infinite or random: nothing to compare with; its
            gradients are a twin's or a surrogate's; or it can't be exported for the engine.
    """
    if not isinstance(classifier, QuantizedClassifier):
        raise InvalidInputError(f"classifier: expected a QuantizedClassifier, got {type(classifier).__name__}")
    x = check_images(x, classifier.input_shape, classifier.clip_values)
    bound, least = check_number("bound", bound, zero=True), check_number("share", 1 if share is None else share, most=1)
    batch_size = check_whole("batch_size", batch_size)
    if engine is not None:
        check_choice("engine", engine, ENGINES)
    prepared, _ = prepare(classifier, x.astype(np.float32))
    batches = torch.split(torch.from_numpy(np.asarray(prepared, dtype=np.float32)).to(classifier.device), batch_size)
    if classifier.model.twin_form is not None:
        raise UnsupportedModelError(
            f"the gradients are {classifier.model.gradients_of}, the values another's: nothing is there to accelerate"
        )
    network = copy.deepcopy(classifier.network)
    folds = frontend_of(network).folds
    wanted = {
        "kept_weights": True,
        "fold_batch_norm": fold_batch_norm and folds,
        "channels_last": channels_last and folds,
    }
    checks = []
    kept = FormOptions()
    with evaluation_mode(network):
        own = getattr(classifier.model.form, "own_gradient", True)
        before: nn.Module | EvaluationForm = network if own else form_of(network, kept)
        expected = Answers.of(before, batches)
        for option in (name for name, asked in wanted.items() if asked):
            tried = kept if option == "kept_weights" else replace(kept, **{option: True})
            form = form_of(network, tried)
            check = compared(option, form, before, batches, expected, bound, least)
            checks.append(check)
            if check.kept:
                kept, before = tried, form
            elif option == "kept_weights":
                raise UnsupportedModelError(
                    "the network does not answer as it did itself: its logits or gradients are not finite, or not the "
                    "same from pass to pass"
                )
            else:
                _warn(check, f"logits and gradients equal within {bound:g}", least)
        if engine is not None:
            images = np.asarray(prepared[:_FOR_RANGES], dtype=np.float32)
            by_engine = EngineForm(network, form_of(network, kept), runtime_of(network, classifier, images))
            least = _SAME_CLASS if share is None else share
            checks.append(values_compared(engine, by_engine, before, batches, expected, least))
    result = like(AcceleratedClassifier, classifier, AttackedNetwork(network, kept))
    result.checks = tuple(checks)
    if engine is None:
        return result
    if not checks[-1].kept:
        _warn(checks[-1], "so the network answers itself", least)
        return result
    faster = like(AcceleratedClassifier, classifier, AttackedNetwork(network, kept))
    faster.model.compute_by(by_engine)
    faster.checks, faster.simulation = result.checks, result
    return faster


def _warn(check: OptionCheck, what: str, share: float) -> None:
    warnings.warn(
        f"accelerate: {check.option} is left off: {check.equal} of {check.images} images have the same class, and "
        f"{what}, where share={share:g} asks for more; the largest errors are "
        f"{check.logits_error:.1e} and {check.gradient_error:.1e}, {check.changed} predicted classes changed",
        stacklevel=3,
    )
