"""The bit-flip attack (Rakin, He, Fan: ICCV 2019), and its targeted form (Rakin et al.: T-BFA, 2020)."""

import os
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from art.attacks.attack import Attack
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor

from qadv.attacks import check_flag, check_number, check_whole
from qadv.deployment import Flip, write_flips
from qadv.errors import InvalidInputError, MaskedGradientWarning
from qadv.estimators import check_images, check_labels
from qadv_weight_threats.coded_network import CodedNetwork, Objective

_CHANCE = 1.1  # times 1 / classes: at most 11 % of ten
_ALL = 0.99
_TRIES = 1000  # to draw a bit that can be flipped, before it is counted whether there is one


@dataclass(frozen=True)
class BitFlips:
    """Flipped bits, and what they did.

    Attributes:
        flips: in order.
        loss: what was raised, on the search batch, before and after each.
        accuracy: before and after each.
        success: with a target: share of the images of the source class that are put there, likewise; else empty.
        stopped: why there are no more: "reached", "max_flips", "no gradient", or of random ones "no bits left".
    """

    flips: tuple[Flip, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    success: tuple[float, ...]
    stopped: str

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return asdict(self)

    def save(self, path: str | os.PathLike[str], classifier: PyTorchClassifier) -> None:
        """Writes the list for `qadv export --flips`, with what the flips did; the classifier is the attacked one."""
        about = {name: value for name, value in self.to_dict().items() if name != "flips"}
        write_flips(path, classifier, self.flips, about)

    def __str__(self) -> str:
        shown = self.success or self.accuracy
        rows = [f"{'':>4}  {'success' if self.success else 'accuracy'} {shown[0]:.1%}"]
        for number, (flip, value) in enumerate(zip(self.flips, shown[1:], strict=True), 1):
            where = f"{flip.layer}[{flip.index}] bit {flip.bit}"
            rows.append(f"{number:>4}  {value:.1%}  {where}: {flip.code} → {flip.flipped}")
        return "\n".join([*rows, f"stopped: {self.stopped}"])


class BitFlipAttack(Attack):
    """Progressive bit search: flips the few bits of the stored codes that raise a batch's loss most.

    In each step the bits of each layer are ranked by `Δ = (c' - c) ∂L/∂c`, to first order what flipping the bit, which
    makes c' of the code c, adds to the loss; the best of each layer are flipped, the loss on the batch is computed, and
    they are flipped back. The layer with the largest loss is flipped for good. For codes in two's complement this is
    the papers' `∂L/∂b = s 2^i ∂L/∂w`, with the sign bit's `-s 2^(N-1)`. No bit is flipped twice.

    ART has no base class for attacks on weights. This one is an `Attack`, the root of all ART's families, and has what
    these share (`attack_params`, `set_params`, checked estimators) and the evasion family's verb, `generate`; it makes
    no images, but a list of flips, and leaves the estimator as it is.

    Args:
        estimator: a quantized classifier: of `qadv.quantize`, Brevitas, or an ONNX file.
        max_flips: at most so many.
        nb_bits: bits that are flipped together in a layer.
        nb_layers: only so many layers, those with the largest Δ, are tried in each step; `None`, as in the papers: all.
        target: a class that images are to be given (T-BFA); `None`: any wrong one.
        source: only images of this class are; `None`: all. Needs `target`.
        stealthy: with a source: the other images keep their classes.
        stop_at: the accuracy, or with `target` the success, at which it stops; `None`: 1.1 / classes, or where images
            of several classes all get one, whatever share of them is of it; with `target` 0.99.
        random: bits are drawn, each that is stored with the same chance: the control.
        seed: of these.
        batch_size: images per pass; changes no more than the last digits.

    Raises:
        UnsupportedModelError: no weights are codes, or they can't be replaced.
        InvalidInputError: a parameter is off.
    """

    attack_params = [
        *("max_flips", "nb_bits", "nb_layers", "target", "source", "stealthy", "stop_at", "random", "seed"),
        "batch_size",
    ]
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(
        self,
        estimator: PyTorchClassifier,
        max_flips: int = 50,
        nb_bits: int = 1,
        nb_layers: int | None = None,
        target: int | None = None,
        source: int | None = None,
        stealthy: bool = False,
        stop_at: float | None = None,
        random: bool = False,
        seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__(estimator)
        self.max_flips, self.nb_bits, self.nb_layers = max_flips, nb_bits, nb_layers
        self.target, self.source, self.stealthy, self.stop_at = target, source, stealthy, stop_at
        self.random, self.seed, self.batch_size = random, seed, batch_size
        self._check_params()

    def generate(
        self, x: NDArray[Any], y: NDArray[Any], x_test: NDArray[Any] | None = None, y_test: NDArray[Any] | None = None
    ) -> BitFlips:
        """Returns the flips.

        Args:
            x: images (N, *input_shape), the search batch; 128 to 256 in the papers.
            y: their labels, as indices or one-hot.
            x_test: images on which accuracy, or success, is counted; `None` for the search batch.
            y_test: their labels.

        Raises:
            InvalidInputError: images or labels are off, or no image is of the source class.

        Warns:
            MaskedGradientWarning: no bit would raise the loss to first order, before the end is reached.
        """
        x, y = self._checked(x, y)
        x_test, y_test = (x, y) if x_test is None else self._checked(x_test, y_test)
        network, flips = CodedNetwork(self.estimator, self.batch_size), list[Flip]()
        used: list[list[tuple[int, int]]] = [[] for _ in network.layers]
        rng, ends = np.random.default_rng(self.seed), [self._counted(network, x_test, y_test)]
        losses, stopped = [network.loss(x, y, self._objective)], "max_flips"
        while len(flips) < self.max_flips:
            if self._reached(ends[-1]):
                stopped = "reached"
                break
            most = min(self.nb_bits, self.max_flips - len(flips))
            found = self._drawn(network, rng, used) if self.random else self._searched(network, x, y, used, most)
            if found is None:
                stopped = "no bits left" if self.random else "no gradient"
                break
            layer, index, bits, codes = found
            for at, bit, code in zip(index.tolist(), bits.tolist(), codes.tolist(), strict=True):
                before = int(network.codes[layer].view(-1)[at])
                flips.append(Flip(network.layers[layer].layer, at, bit, before, int(code)))
                used[layer].append((bit, at))
                network.flip(layer, at, code)
                losses.append(network.loss(x, y, self._objective))
                ends.append(self._counted(network, x_test, y_test))
        stopped = "reached" if self._reached(ends[-1]) else stopped
        if stopped == "no gradient":
            warnings.warn(
                f"after {len(flips)} flips no bit raises the loss to first order: gradients are zero, as where all "
                "images have a loss of 0. Give more images; random=True needs no gradient",
                MaskedGradientWarning,
                stacklevel=2,
            )
        accuracy, success, _ = zip(*ends, strict=True)
        return BitFlips(tuple(flips), tuple(losses), accuracy, success if self.target is not None else (), stopped)

    def _searched(
        self, network: CodedNetwork, x: Any, y: Any, used: list[list[tuple[int, int]]], most: int
    ) -> tuple[int, Tensor, Tensor, Tensor] | None:
        """Returns layer, weights, bits and new codes of the `most` flips that raise the loss most; or `None`."""
        candidates = []
        for layer, gradient in enumerate(network.gradients(x, y, self._objective)):
            codes = network.codes[layer]
            flipped = _left(network, layer, used)
            estimate = (flipped - codes.view(-1)) * gradient.view(-1)
            estimate = torch.where(estimate > 0, estimate, 0.0)  # of NaN too
            of_weight, bit_of_weight = estimate.max(dim=0)
            best, index = of_weight.topk(min(most, codes.numel()))
            index, bits = index[best > 0], bit_of_weight[index[best > 0]]
            if len(index):
                candidates.append((float(best.sum()), layer, index, bits, flipped[bits, index]))
        candidates.sort(key=lambda each: -each[0])
        largest, chosen = -np.inf, None
        for _, layer, index, bits, codes in candidates[: self.nb_layers]:
            network.put(layer, network.with_codes(layer, index, codes))
            loss = network.loss(x, y, self._objective)
            network.put(layer, network.codes[layer])
            if loss > largest:
                largest, chosen = loss, (layer, index, bits, codes)
        return chosen

    def _drawn(
        self, network: CodedNetwork, rng: np.random.Generator, used: list[list[tuple[int, int]]]
    ) -> tuple[int, Tensor, Tensor, Tensor] | None:
        """Returns likewise a flip that is drawn among all stored bits."""
        sizes = [codes.numel() * bits.bits for codes, bits in zip(network.codes, network.bits, strict=True)]
        tries = 0
        while True:
            tries += 1
            if tries % _TRIES == 0 and all(_left(network, layer, used).isnan().all() for layer in range(len(sizes))):
                return None
            place = int(rng.integers(sum(sizes)))
            layer = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
            place -= sum(sizes[:layer])
            bit, index = divmod(place, network.codes[layer].numel())
            code = network.bits[layer].flip(network.codes[layer].view(-1)[index])[bit]
            if (bit, index) not in used[layer] and not code.isnan():
                return layer, torch.tensor([index]), torch.tensor([bit]), code.view(1)

    @property
    def _objective(self) -> Objective:
        if self.target is None:
            return lambda logits, y: F.cross_entropy(logits, y, reduction="none")

        def towards(logits: Tensor, y: Tensor) -> Tensor:
            ours = torch.ones_like(y, dtype=torch.bool) if self.source is None else y == self.source
            wanted = torch.where(ours, self.target, y)
            counts = torch.ones_like(ours) if self.stealthy else ours
            return -F.cross_entropy(logits, wanted, reduction="none") * counts

        return towards

    def _counted(self, network: CodedNetwork, x: Any, y: Any) -> tuple[float, float, bool]:
        """Returns accuracy, success towards the target, and whether images of several classes all get one."""
        answers = network.logits(x).argmax(dim=1).cpu().numpy()
        ours = np.ones(len(y), bool) if self.source is None else y == self.source
        success = 0.0 if self.target is None else float((answers[ours] == self.target).mean())
        return float((answers == y).mean()), success, len(set(answers.tolist())) == 1 < len(set(y.tolist()))

    def _reached(self, end: tuple[float, float, bool]) -> bool:
        if self.target is None:
            if self.stop_at is None:
                return end[0] <= _CHANCE / self.estimator.nb_classes or end[2]
            return end[0] <= self.stop_at
        return end[1] >= (_ALL if self.stop_at is None else self.stop_at)

    def _checked(self, x: Any, y: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        x = check_images(x, self.estimator.input_shape, self.estimator.clip_values).astype(np.float32)
        if y is None:
            raise InvalidInputError("y: the labels of the images are needed")
        y = check_labels(y, len(x), self.estimator.nb_classes).astype(np.int64)
        if self.source is not None and not (y == self.source).any():
            raise InvalidInputError(f"source: none of the images is of class {self.source}")
        return x, y

    def _check_params(self) -> None:
        super()._check_params()
        classes = self.estimator.nb_classes
        for name in ("max_flips", "nb_bits", "batch_size"):
            setattr(self, name, check_whole(name, getattr(self, name)))
        self.nb_layers = None if self.nb_layers is None else check_whole("nb_layers", self.nb_layers)
        self.seed = check_whole("seed", self.seed, 0)
        for name in ("target", "source"):
            given = getattr(self, name)
            setattr(self, name, None if given is None else check_whole(name, given, 0, classes - 1))
        for name in ("stealthy", "random"):
            setattr(self, name, check_flag(name, getattr(self, name)))
        self.stop_at = None if self.stop_at is None else check_number("stop_at", self.stop_at, zero=True, most=1)
        if self.source is not None and (self.target is None or self.source == self.target):
            raise InvalidInputError("source: goes with another class as target")
        if self.stealthy and self.source is None:
            raise InvalidInputError("stealthy: goes with a source, whose images alone are to get another class")


def _left(network: CodedNetwork, layer: int, used: list[list[tuple[int, int]]]) -> Tensor:
    """Returns the code that the flip of each bit gives, (bits, weights); NaN where none does or the bit was flipped."""
    flipped = network.bits[layer].flip(network.codes[layer].view(-1))
    if used[layer]:
        flipped[tuple(torch.tensor(used[layer]).T)] = torch.nan
    return flipped


def bit_flips(
    classifier: PyTorchClassifier,
    x: NDArray[Any],
    y: NDArray[Any],
    max_flips: int = 50,
    nb_bits: int = 1,
    nb_layers: int | None = None,
    target: int | None = None,
    source: int | None = None,
    stealthy: bool = False,
    stop_at: float | None = None,
    random: bool = False,
    seed: int = 0,
) -> BitFlips:
    """Measures how few flips break a network: what `BitFlipAttack` finds with these options."""
    options = (max_flips, nb_bits, nb_layers, target, source, stealthy, stop_at, random, seed)
    return BitFlipAttack(classifier, *options).generate(x, y)


def accuracy_after(
    classifier: PyTorchClassifier, flips: tuple[Flip, ...], x: NDArray[Any], y: NDArray[Any], batch_size: int = 128
) -> float:
    """Returns the accuracy of a network with all these flips on other images; the classifier stays as it is.

    Raises:
        InvalidInputError: images or labels are off, or the flips are of another network.
    """
    x = check_images(x, classifier.input_shape, classifier.clip_values).astype(np.float32)
    y = check_labels(y, len(x), classifier.nb_classes)
    network = CodedNetwork(classifier, batch_size)
    layers = {each.layer: number for number, each in enumerate(network.layers)}
    for flip in flips:
        codes = network.codes[layers[flip.layer]].view(-1) if flip.layer in layers else torch.empty(0)
        if not 0 <= flip.index < len(codes) or int(codes[flip.index]) != flip.code:
            raise InvalidInputError(f"flips: {flip} is of another network")
        network.flip(layers[flip.layer], flip.index, flip.flipped)
    return float((network.logits(x).argmax(dim=1).cpu().numpy() == y).mean())
