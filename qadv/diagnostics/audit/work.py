"""How long an audit may take: the passes that its checks make of one image, and a probe of how fast the network is."""

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from qadv.diagnostics.audit.cost import Cost
from qadv.diagnostics.audit.losses import negative_margin
from qadv.diagnostics.audit.settings import Settings
from qadv.diagnostics.audit.target import Images, Labels, Target
from qadv.frontends.find import quantized_activations
from qadv.random_states import seeded

_ANY = Cost(56, 26)  # of any image: checks 1, 2 and 11
_LOOKS = Cost(26, 18)  # of an image that falls at once: attacks at other ε
_OTHER_ESTIMATORS = 4
_OF_KIND = {  # what attacks of a kind take
    "PGD": ("steps", "long_steps"), "Square": ("square_steps",), "SPSA": ("spsa_steps",),
    "N-Attack": ("n_attack_steps",), "noise": ("noise_draws",),
}  # fmt: skip
_ENOUGH = 0.1  # seconds of passes that say how fast they are


def held(settings: Settings, classes: int, sources: int = 0, quantized: bool = True) -> dict[int, Cost]:
    """Returns the passes of an image that holds out against everything, by the number of the check that makes them.

    Searches that find something go on, up to twice as long; attacks on targets of one class are fewer.
    """
    others, half = min(classes - 1, 9), settings.steps // 2
    pgd, short = Cost(settings.steps + 2, settings.steps + 1), Cost(half + 2, half + 1)
    samples = 2 * settings.spsa_steps * settings.spsa_samples + settings.n_attack_steps * settings.n_attack_samples
    block = Cost(settings.long_steps, settings.long_steps) + min(others, 4) * pgd
    return {
        1: _ANY,
        3: (2 + min(others, 2)) * pgd + Cost(settings.square_steps + samples, 1),
        5: 4 * short + Cost(8, 3),
        7: sources * (pgd + Cost(3, 2)),
        8: (3 + _OTHER_ESTIMATORS * quantized) * short,
        9: min(2, settings.blocks) * block + Cost(settings.noise_draws, 0),
    }


def fallen(settings: Settings) -> Cost:
    """Returns the passes of an image that falls to the first attack."""
    return _ANY + _LOOKS + Cost(settings.steps, settings.steps)


@dataclass(frozen=True)
class Speed:
    """Seconds of a pass, and of one with the way back: of a batch, and of each image in it."""

    forward: tuple[float, float]
    both: tuple[float, float]
    batch_size: int

    @classmethod
    def of(cls, target: Target, x: Images, y: Labels) -> "Speed":
        """Measures passes of one image and of one batch, the first of images (N, *input_shape)."""
        size = min(len(x), target.batch_size)
        ways = []
        with seeded(0):
            for back in (False, True):
                whole, one = (min(_seconds(target, x[:n], y[:n], back) for _ in range(2)) for n in (size, 1))
                each = max(0.0, (whole - one) / (size - 1)) if size > 1 else 0.0
                ways.append((max(0.0, one - each), each))
        return cls(ways[0], ways[1], target.batch_size)

    def seconds(self, total: Cost, images: int) -> float:
        """Returns how long so many passes of an image take, made of so many images at a time."""
        batches = math.ceil(images / self.batch_size) / max(1, images)
        one, both = (batch * batches + each for batch, each in (self.forward, self.both))
        return (total.forward - total.backward) * one + total.backward * both


def _seconds(target: Target, x: Images, y: Labels, back: bool) -> float:
    started = time.perf_counter()
    if back:
        images, labels = target.tensors(x, y)
        target.gradient(images, labels, negative_margin)
    else:
        target.logits(x)
    return time.perf_counter() - started


class TimeLeft:
    """How long an audit takes, by what a probe of the first batch took; arguments as of `audit`, `checks` by number."""

    def __init__(
        self,
        target: Target,
        x: Images,
        y: Labels,
        settings: Settings,
        sources: int,
        checks: Collection[int],
        without: Collection[str] = (),
    ) -> None:
        settings = replace(settings, **{name: 0 for kind in without for name in _OF_KIND.get(kind, ())})
        self.speed, self.settings = Speed.of(target, x, y), settings
        quantized = bool(quantized_activations(target.classifier.model))
        by_check = held(settings, target.classes, sources, quantized)
        # the first attacks run for whichever check asks first
        self.by_check = {number: cost for number, cost in by_check.items() if number in {1, 3, *checks}}

    def seconds(self, images: int, made: Collection[int] = ()) -> float:
        """Returns how long so many images take that hold out to the end; `made` checks are done."""
        left = (cost for number, cost in self.by_check.items() if number not in made)
        return self.speed.seconds(images * sum(left, Cost()), images)

    def least(self, images: int) -> float:
        """Returns how long so many images take that fall to the first attack."""
        return self.speed.seconds(images * fallen(self.settings), images)


class Watch:
    """Compares what passes take with what the probe said, attack by attack."""

    def __init__(self, speed: Speed, cost: Cost, images: int) -> None:
        self.speed, self.cost, self.images, self.expected = speed, cost.copy(), images, 0.0
        self.started = time.perf_counter()

    def slower(self, cost: Cost, images: int) -> float:
        """Returns how many times longer it took up to here, where the next attack begins, on so many images."""
        self.expected += self.speed.seconds(cost - self.cost, self.images)
        self.cost, self.images = cost.copy(), images
        took = time.perf_counter() - self.started
        return took / self.expected if self.expected > _ENOUGH else 1.0
