"""How a classifier's network is computed in evaluation mode: with BatchNorm folded, if its answers stay."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qadv.estimators.answers import Answers, errors
from qadv.estimators.attacked import AttackedNetwork
from qadv.estimators.forms import outermost
from qadv.frontends.find import form_of, frontend_of
from qadv.modes import buffers_kept, evaluation_mode
from qadv.network_lock import lock_of
from qadv.quantization.form import FormOptions
from qadv.random_states import global_states_kept

_TRIED = (FormOptions(fold_batch_norm=True, channels_last=True), FormOptions(fold_batch_norm=True))
_NB_IMAGES = 4
_BOUND = 1e-3
_OWN = 2  # times what rounding moves
_ROUNDING = 2.0**-20  # of a float32 sum of some hundred products
_COSINE = 0.5


def choose_form(classifier: Any, images: Tensor | np.ndarray[Any, Any] | None = None, fold: bool = True) -> None:
    """Lets a quantized network be computed with BatchNorm folded and channels last, if it stays the same function.

    Without `fold`, modules stand in for quantized layers; a network that is another then, as one whose code asks for
    `type(self)`, computes itself. Nothing happens if it is not quantized, or random, or its gradients are another's.

    Verified on images drawn uniformly from the pixel range, always the same, and on the first of `images`, as the
    network takes them. At least half of them have to have the same class, logits within 0.1 % of the largest, and a
    gradient in about the same direction: a single activation on a threshold of its quantizer may fall to the other
    side. In deep networks of many levels enough do that a millionth of the pixels, no more than rounding does, moves
    all logits by percents: there folding may move them by twice what this does. What fails is left off. Of a form whose
    gradient is meant to be another than the network's, logits alone are compared.

    Warns:
        UserWarning: the network is not the same function with BatchNorm folded, or with modules that stand in.
    """
    model: AttackedNetwork = classifier.model
    network = model.held_network
    frontend = frontend_of(network)
    if not frontend.recognises(network) or model.twin_form is not None:
        return
    tried = _TRIED if fold and frontend.folds else ()
    batch = _images(classifier, images)
    with lock_of(network), evaluation_mode(model), buffers_kept(network), global_states_kept():
        expected = _answers(network, batch)
        if expected is None or not bool(expected.logits.isfinite().all() & expected.gradients.isfinite().all()):
            return
        found = []
        for options in tried:
            form = form_of(network, options)
            found.append((form, _answers(form, batch, expected.classes)))
            if _share_of_same(found[-1][1], expected) >= 0.5:
                model.compute_by(form)
                return
        again = _answers(network, batch, expected.classes)
        if _share_of_same(again, expected) < 1:
            return  # random: nothing to compare with
        own = _answers(network, _moved(batch), expected.classes) if found else None
        bound = 0.0 if own is None else _OWN * float(errors(own.logits, expected.logits).max())
        for form, answers in found:
            if _share_of_same(answers, expected, max(_BOUND, bound)) >= 0.5:
                model.compute_by(form)
                return
        answers = _answers(model, batch, expected.classes)
        if answers is not None and not getattr(model.form, "own_gradient", True):
            answers = replace(answers, gradients=expected.gradients)
        as_it_is = _share_of_same(answers, expected) < 0.5
        if as_it_is:
            model.compute_by(form_of(network, FormOptions(as_it_is=True)))
    if as_it_is or tried:
        what = "other modules standing in for its quantized layers" if as_it_is else "its BatchNorms folded"
        said = "" if as_it_is else "; fold=False says so from the start"
        warnings.warn(
            f"the network is not the same function with {what}, so it is attacked as it is, more slowly{said}",
            stacklevel=3,
        )


def _images(classifier: Any, images: Any) -> Tensor:
    low, high = outermost(classifier.clip_values) or (0.0, 1.0)
    drawn = np.random.default_rng(0).uniform(low, high, (_NB_IMAGES, *classifier.input_shape)).astype(np.float32)
    if hasattr(classifier.preprocessing, "mean"):
        drawn = classifier.preprocessing(drawn)[0].astype(np.float32)
    parts = [torch.from_numpy(drawn)] + ([] if images is None else [torch.as_tensor(images[:_NB_IMAGES]).float()])
    return torch.cat([part.to(classifier.device) for part in parts])


def _answers(network: Any, batch: Tensor, classes: Tensor | None = None) -> Answers | None:
    """Returns `None` where it can't be asked so: its code depends on the order in memory, or gives no gradient."""
    try:
        return Answers.of(network, [batch], classes)
    except Exception:
        return None


def _moved(batch: Tensor) -> Tensor:
    """Returns the images with every other value as much larger as rounding makes it."""
    moved = batch.flatten().clone()
    moved[::2] *= 1 + _ROUNDING
    return moved.view_as(batch)


def _share_of_same(found: Answers | None, expected: Answers, bound: float = _BOUND) -> float:
    if found is None:
        return 0.0
    same = found.logits.argmax(dim=1) == expected.logits.argmax(dim=1)
    close = errors(found.logits, expected.logits) <= bound
    a, b = found.gradients.flatten(1), expected.gradients.flatten(1)
    along = (nn.functional.cosine_similarity(a, b) >= _COSINE) | (a == b).all(dim=1)
    return float((same & close & along).float().mean())
