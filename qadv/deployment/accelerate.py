"""`accelerate`: a frozen copy of a classifier with faster arithmetic, as far as its answers stay what they were."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qadv.checks import check_number, check_whole
from qadv.deployment.answers import Answers, OptionCheck, compared, logits_and_gradient
from qadv.deployment.batch_norm_folding import fold_batch_norms
from qadv.errors import InvalidInputError, MissingRequirementError, UnsupportedModelError
from qadv.estimators.checks import check_images
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.door import prepare
from qadv.quantization.frozen import freeze, is_frozen
from qadv.quantization.layers import QuantActivation, _QuantLayer


class AcceleratedNetwork(nn.Module):
    """Takes images and gives logits in float32, whatever is in between. Stays in evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        self.bf16 = False
        super().train(False)

    def train(self, mode: bool = True) -> "AcceleratedNetwork":
        return self  # a folded BatchNorm has no training mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.bf16:
            return self.network(x)  # type: ignore[no-any-return]
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.network(x)
        return logits.float()

    def fold_batch_norms(self, image: Tensor) -> None:
        if not fold_batch_norms(self.network, image):
            warnings.warn("accelerate: there is no BatchNorm that can be folded into the layer before it", stacklevel=4)

    def put_channels_last(self) -> None:
        self.network.to(memory_format=torch.channels_last)

    @property
    def is_compiled(self) -> bool:
        """Whether it was compiled here: copies are not."""
        return self.network._compiled_call_impl is not None

    def use_bf16(self) -> None:
        self.bf16 = True

    def compile_by(self, backend: bool | str, images: Tensor) -> None:
        """Compiles the network for images of any number, and runs it once.

        Raises:
            MissingRequirementError: there is no C++ compiler.
            UnsupportedModelError: torch can't compile the network.
        """
        try:
            self.network.compile(backend=backend if isinstance(backend, str) else "inductor", dynamic=True)
            logits_and_gradient(self, images)
        except Exception as error:
            if "InvalidCxxCompiler" in f"{type(error).__name__} {error}":
                raise MissingRequirementError(
                    "compile=True needs a C++ compiler that torch's inductor finds, e.g. g++ (or name one in the "
                    'variable CXX); compile="aot_eager" does without, and is no faster'
                ) from error
            raise UnsupportedModelError(
                f"compile: torch.compile fails on this network ({type(error).__name__}: {error}); leave it out"
            ) from error


class AcceleratedClassifier(QuantizedClassifier):
    """What `accelerate` returns: a classifier to attack, not to train or save.

    Attributes:
        checks: how each option that was asked for answered, in the order they were tried; see `table()`.
    """

    checks: tuple[OptionCheck, ...] = ()

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
        console = Console(width=120)
        with console.capture() as captured:
            console.print(self.table())
        return captured.get()

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        if label is not None or not self.model.is_compiled or not isinstance(x, np.ndarray):
            return super().class_gradient(x, label, training_mode, **kwargs)
        # what inductor makes can't go backward for all classes at once
        of_one = super().class_gradient
        return np.concatenate([of_one(x, each) for each in range(self.nb_classes)], axis=1)

    def save(self, *args: Any, **kwargs: Any) -> None:
        raise InvalidInputError("an accelerated classifier is a copy to attack; save the one that it was made from")


def accelerate(
    classifier: QuantizedClassifier,
    x: NDArray[Any],
    *,
    fold_batch_norm: bool = False,
    channels_last: bool = False,
    bf16: bool = False,
    compile: bool | str = False,
    bound: float = 1e-4,
    share: float = 1.0,
    batch_size: int = 128,
) -> AcceleratedClassifier:
    """Returns a frozen copy of a classifier for attacks, with those of the wanted options that keep its answers.

    The options are tried one after the other, in the order below, each on top of those that were kept. One that changes
    answers by more than the bound is left off, with a warning that has the figures; all figures are in the result's
    `checks`. What was verified was verified on `x`: give images like those that the attack will ask about.

    Args:
        classifier: any; it is untouched, and later changes of it do not reach the copy.
        x: images to verify with, (N, *input_shape) in `clip_values`.
        fold_batch_norm: BatchNorms become part of the layers before them.
        channels_last: weights and activations lie in memory with their channels last.
        bf16: convolutions and linear layers compute in bfloat16 (`torch.autocast`).
        compile: `torch.compile`; a string names another backend than inductor.
        bound: largest relative error of an image's logits and of its gradient, see `OptionCheck`.
        share: part of the images, in (0, 1], that must be equal: both errors within `bound`, and the same class. In a
            quantized network a difference in the last bit moves an activation that lies on a rounding threshold by a
            whole step, and that image's logits by percents; a share below 1 allows a few of these.
        batch_size: images in one pass.

    Raises:
        InvalidInputError: images or another argument are off.
        MissingRequirementError: `compile`, and there is no C++ compiler.
        UnsupportedModelError: torch can't compile the network; or its own answers are NaN, infinite or random, so that
            there is nothing to compare with.
    """
    if not isinstance(classifier, QuantizedClassifier):
        raise InvalidInputError(f"classifier: expected a QuantizedClassifier, got {type(classifier).__name__}")
    x = check_images(x, classifier.input_shape, classifier.clip_values)
    bound, share = check_number("bound", bound, zero=True), check_number("share", share, most=1)
    batch_size = check_whole("batch_size", batch_size)
    prepared, _ = prepare(classifier, x.astype(np.float32))
    batches = torch.split(torch.from_numpy(np.asarray(prepared, dtype=np.float32)).to(classifier.device), batch_size)
    original = copy.deepcopy(classifier.network).eval()
    expected = Answers.of(original, batches)

    wanted: dict[str, Callable[[AcceleratedNetwork], None]] = {"frozen": lambda network: None}
    if fold_batch_norm:
        wanted["fold_batch_norm"] = lambda network: network.fold_batch_norms(batches[0][:1])
    if channels_last:
        wanted["channels_last"] = lambda network: network.put_channels_last()
    if bf16:
        wanted["bf16"] = lambda network: network.use_bf16()
    if compile:
        wanted["compile"] = lambda network: network.compile_by(compile, batches[0])
    kept = AcceleratedNetwork(_frozen(original))
    before: nn.Module = original
    checks = []
    for option, apply in wanted.items():
        candidate = copy.deepcopy(kept)
        apply(candidate)
        check = compared(option, candidate, before, batches, expected, bound, share)
        checks.append(check)
        if option == "frozen" and not check.kept:
            raise UnsupportedModelError(
                "a frozen copy of the network does not answer as the network does: its logits or gradients are not "
                "finite, or not the same from pass to pass"
            )
        if check.kept:
            kept = before = candidate
        else:
            _warn(check, bound, share)
    result = AcceleratedClassifier(
        kept,
        classifier.loss,
        classifier.input_shape,
        classifier.nb_classes,
        channels_first=classifier.channels_first,
        clip_values=classifier.clip_values,
        preprocessing_defences=classifier.preprocessing_defences,
        postprocessing_defences=classifier.postprocessing_defences,
        preprocessing=classifier.preprocessing,
        device_type="cpu" if classifier.device.type == "cpu" else "gpu",
    )
    result.checks = tuple(checks)
    return result


def _frozen(model: nn.Module) -> nn.Module:
    """Returns a network that nobody else has, with weights quantized once and none of them trained."""
    quantized = any(isinstance(module, _QuantLayer | QuantActivation) for module in model.modules())
    network = freeze(model) if quantized and not is_frozen(model) else copy.deepcopy(model)
    return network.requires_grad_(False)


def _warn(check: OptionCheck, bound: float, share: float) -> None:
    warnings.warn(
        f"accelerate: {check.option} is left off: {check.equal} of {check.images} images have the same class, and "
        f"logits and gradients equal within {bound:g}, where share={share:g} asks for more; the largest errors are "
        f"{check.logits_error:.1e} and {check.gradient_error:.1e}, {check.changed} predicted classes changed",
        stacklevel=3,
    )
