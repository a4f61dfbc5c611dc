"""How ART uses a classifier, for the checks on components that make or change one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from torch import nn

from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.protocol import Classifier
from qadv.testing.check import NotApplicable, expect, expect_array, expect_same
from qadv.testing.materials import few

_DO = "return what ART made: a PyTorchClassifier round a torch.nn.Module that gives logits"


def check_attackable(classifier: Classifier, images: Any = None) -> None:
    """Fails unless a classifier gives logits, and a gradient that ART's FGSM and PGD follow."""
    x = few()[0] if images is None else images
    logits = classifier.predict(x)
    expect_array(logits, (len(x), classifier.nb_classes), _DO)
    gradient = classifier.loss_gradient(x, np.eye(classifier.nb_classes, dtype=np.float32)[logits.argmax(1)])
    expect(gradient.shape == x.shape, f"an input gradient {x.shape}", gradient.shape, _DO)
    live = (np.abs(gradient).reshape(len(x), -1).max(axis=1) > 0).mean()
    came = f"zero for {1 - live:.0%} of the images"
    do = "what is not differentiable needs a straight-through estimator; no softmax before the loss"
    expect(live > 0.3, "an input gradient that is not zero", came, do)
    pgd = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.03, max_iter=3, verbose=False)
    for attack in (FastGradientMethod(classifier, eps=0.1), pgd):
        changed = (attack.generate(x) != x).any()
        expect(changed, f"{type(attack).__name__} to change images", "it changes none", _DO)


def check_saved(classifier: Classifier) -> None:
    """Fails unless a classifier that was saved and loaded gives the same logits."""
    if not isinstance(classifier, QuantizedClassifier):
        raise NotApplicable(f"{type(classifier).__name__} is not qadv's to save")
    x = np.random.default_rng(0).random((4, *classifier.input_shape), dtype=np.float32)
    before = classifier.predict(x)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.safetensors"
        classifier.save(path)
        loaded = QuantizedClassifier.load(path, device_type="cpu")
    do = "keep all that decides the logits in parameters and buffers, and nothing in plain attributes"
    expect_same(before, loaded.predict(x), "the logits from before saving", do, "the output")


@contextmanager
def untouched(*networks: nn.Module, do: str, modes: bool = False) -> Iterator[None]:
    """Fails unless the block leaves the weights, buffers and hooks of networks as they are, and `modes` if asked."""

    def traces() -> Any:
        tensors = [t.detach().clone() for each in networks for t in (*each.parameters(), *each.buffers())]
        modules = [m for each in networks for m in (each, *each.modules())]
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules]
        return tensors, [m.training for m in modules if modes], hooks

    before = traces()
    yield
    expect_same(before, traces(), f"the same weights, buffers{', modes' if modes else ''} and hooks", do, "the network")


def check_slope(wrong: str | None, do: str) -> None:
    """Fails if a gradient is not the slope, as `disagreement` says, unless that is on purpose."""
    say = "if it passes gradients straight through, say so: conformance(..., exempt={'gradient': 'straight-through'})"
    expect(wrong is None, "the slope that differences give", wrong, f"{do}; {say}")


def check_range(pixels: Any, low: float, high: float, do: str) -> None:
    """Fails unless all pixels lie within a range."""
    inside = pixels.min() >= low - 1e-6 and pixels.max() <= high + 1e-6
    expect(inside, f"values from {low:g} to {high:g}", f"{pixels.min():g} to {pixels.max():g}", do)
