"""`QueryCoalescer`: attacks that work sample by sample, at the speed of large batches."""

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from art.attacks.attack import Attack, EvasionAttack
from art.config import ART_NUMPY_DTYPE
from art.estimators import BaseEstimator
from art.estimators.classification import PyTorchClassifier
from art.summary_writer import SummaryWriter
from numpy.typing import NDArray
from torch import nn

from qadv.checks import check_fields, check_flag, check_whole
from qadv.errors import InvalidInputError
from qadv.estimators.batches import answers_alone
from qadv.estimators.checks import check_images
from qadv.estimators.merging import Query, answer, asking, is_asking
from qadv.estimators.turns import Run, Turns
from qadv.random_states import RandomStates, entropy_from_global_state, global_states_kept
from qadv.versions import progress_bar

Array = NDArray[Any]

_ONE_AT_A_TIME = threading.RLock()  # the random states are global
_ONE_FOR_ALL_SAMPLES = {
    "AdversarialPatch": "patch",
    "AdversarialPatchNumpy": "patch",
    "AdversarialPatchPyTorch": "patch",
    "AdversarialTexturePyTorch": "texture",
    "DPatch": "patch",
    "RobustDPatch": "patch",
    "SpatialTransformation": "rotation and shift",
    "TargetedUniversalPerturbation": "perturbation",
    "UniversalPerturbation": "perturbation",
}


class QueryCoalescer(EvasionAttack):
    """Runs any ART attack on N samples as N runs at once, whose queries share batches.

    Many of ART's attacks (ZOO, SignOPT, SimBA, HopSkipJump, Boundary, C&W, DeepFool, …) ask about a few images at a
    time, for one sample after the other. Here each sample has its own run of the unmodified attack; when all runs wait
    for an answer, one call of the estimator answers the most that it can, and the others wait for more of their kind,
    so that line searches of different lengths meet again. It is an attack itself, made from an attack, so that it goes
    wherever ART takes one:

        attack = qadv.QueryCoalescer(HopSkipJump(classifier), seed=0)
        x_adv = attack.generate(x, y)

    **Same results.** A sample's result is that of the attack on this sample alone, up to what the batch size does to
    the network's rounding (1e-6 in the logits); a network that finds a scale for each batch is warned of. Attacks that
    find one perturbation for all samples (universal perturbations, patches, `SpatialTransformation`) are refused; an
    attack that is not known here is taken to treat samples independently, as ART's do. Preprocessing or layers that
    draw random numbers draw them once for a batch.

    **Same seeds, same results.** One run moves at a time, in the order of the samples. Each run draws from random
    states of its own (`numpy.random`, `random`, torch's CPU generator), seeded from `seed` and the index of the sample,
    whatever the other samples do; so do the `np.random.RandomState()` that ART's attacks make without a seed. The
    caller's random states are afterwards as they were before, but for the one number drawn where `seed` is `None`. They
    are global, so nothing else should draw from them meanwhile: coalescers in several threads run one after the other,
    and an attack that asks from threads of its own, or runs a coalescer itself, is refused.

    **What is merged.** `predict`, `class_gradient`, `compute_loss` without a reduction, and `loss_gradient` for losses
    with reduction "sum" or an unweighted "mean"; other queries are answered one by one. The attack itself is not
    changed: each run works on a copy of it, with a stand-in for the estimator that shares the network.

    Args:
        attack: any ART evasion attack on a `PyTorchClassifier` or a class derived from it.
        concurrency: number of samples under attack at once, at least 1; when one ends the next begins.
        batch_size: largest number of images in one call of the estimator, at least 1.
        seed: whole number of at least 0; `None` draws one from numpy's global state at each `generate`.
        verbose: shows how many samples are finished; the attack's own progress is not shown.

    Attributes:
        partial: (N, *input_shape), the adversarial images of the samples finished so far, the others as they were;
            still there after an error or Ctrl-C.
        finished: (N,) bool, which samples are finished.
        queries: (N,) number of images that each sample's run has asked about.
        batches: number of calls of the estimator that answered them.

    Raises:
        InvalidInputError: the attack finds one perturbation for all samples, or an argument is off.
    """

    attack_params = [*EvasionAttack.attack_params, "attack", "concurrency", "batch_size", "seed", "verbose"]
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(
        self,
        attack: EvasionAttack,
        concurrency: int = 64,
        batch_size: int = 32,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        self.attack = attack
        self.concurrency = concurrency
        self.batch_size = batch_size
        self.seed = seed
        self.verbose = verbose
        self._check_params()
        super().__init__(estimator=attack.estimator)
        self.partial: Array
        self.finished: NDArray[np.bool_]
        self.queries: NDArray[np.int64]
        self.batches = 0

    @property
    def estimator(self) -> PyTorchClassifier:
        """The estimator under attack."""
        return self.attack.estimator

    @property
    def targeted(self) -> bool:
        """Whether the attack is targeted."""
        return bool(self.attack.targeted)

    def generate(self, x: Array, y: Array | None = None, **kwargs: Any) -> Array:
        """Returns adversarial images, (N, *input_shape) float32, of images `x` in `clip_values`.

        Args:
            y: what the attack takes, one row or label for each image.
            kwargs: passed to the attack; `x_adv_init`, and a `mask` with one row for each image, are divided among the
                samples, all else goes to each run as it is.

        Raises:
            InvalidInputError: images, labels or starting points are off, the attack returns something else than one
                image for one image, it asks the estimator from threads of its own, or it is itself run by a
                `QueryCoalescer`.
            Exception: whatever the attack raises, with a note that names the sample; all other runs are stopped.

        Warns:
            UserWarning: the network answers an image differently with others in its batch.
        """
        if isinstance(threading.current_thread(), Run) or is_asking(self.estimator):
            raise InvalidInputError(
                "attack: a QueryCoalescer within another can't keep the runs' random states apart; call the attack "
                "within it directly, or the one round it"
            )
        if not answers_alone(self.estimator):
            warnings.warn(
                "the network answers an image differently with other images in its batch, as one that finds a scale "
                "for each batch: results are not those of the attack on each sample alone, as the attack itself gives",
                stacklevel=2,
            )
        with _ONE_AT_A_TIME:
            return self._generate(x, y, kwargs)

    def _generate(self, x: Array, y: Array | None, kwargs: dict[str, Any]) -> Array:
        x = check_images(x, self.estimator.input_shape, self.estimator.clip_values)
        shared, divided = _divide(x, y, kwargs)
        seed = int(np.random.randint(2**31)) if self.seed is None else self.seed
        self.partial = x.astype(ART_NUMPY_DTYPE)
        self.finished = np.zeros(len(x), dtype=bool)
        self.queries = np.zeros(len(x), dtype=np.int64)
        self.batches = 0

        def attack_one(run: Run) -> Any:
            own = {name: values[run.index : run.index + 1].copy() for name, values in divided.items()}
            return _own_copy(self.attack, run.ask).generate(**own, **shared)

        turns, begun = Turns(), 0
        waiting, moving = list[Run](), list[Run]()
        answering = RandomStates(np.random.SeedSequence(seed))
        with (
            global_states_kept(),
            entropy_from_global_state(Run),
            _all_stopped_at_the_end(turns, waiting),
            progress_bar(shown=self.verbose) as progress,
        ):
            bar = progress.add_task(type(self.attack).__name__, total=len(x))
            while begun < len(x) or waiting:
                while begun < len(x) and len(waiting) < self.concurrency:
                    states = RandomStates(np.random.SeedSequence(seed, spawn_key=(begun,)))
                    waiting.append(Run(begun, attack_one, turns, states))
                    moving.append(waiting[-1])
                    waiting[-1].start()
                    begun += 1
                turns.take(moving)
                ended = [run for run in waiting if run.done]
                waiting[:] = [run for run in waiting if not run.done]
                self._collect(ended)
                progress.advance(bar, len(ended))
                moving = []
                if waiting:
                    answering.put_in_place()
                    moving = self._answered(waiting)
                    answering.take_back()
        return self.partial

    def _answered(self, runs: list[Run]) -> list[Run]:
        """Answers those runs that one call can answer, and returns them."""
        replies, nb_calls = answer([run.request for run in runs], self.batch_size)
        self.batches += nb_calls
        for at, reply in replies.items():
            self.queries[runs[at].index] += len(runs[at].request)
            runs[at].reply = reply
        return [runs[at] for at in sorted(replies)]

    def _collect(self, runs: list[Run]) -> None:
        name = type(self.attack).__name__
        for run in runs:
            run.join()
            if run.error is None:
                shape = getattr(run.result, "shape", type(run.result).__name__)
                if shape == (1, *self.partial.shape[1:]):
                    self.partial[run.index] = run.result[0]
                    self.finished[run.index] = True
                else:
                    run.error = InvalidInputError(
                        f"attack: expected one image of shape {(1, *self.partial.shape[1:])} for one image, got "
                        f"{shape} from {name}; call the attack itself"
                    )
        for run in runs:
            if run.error is not None:
                run.error.add_note(f"QueryCoalescer: this came from {name} on sample {run.index}")
                raise run.error

    def _check_params(self) -> None:
        within = list(_attacks_within(self.attack)) if isinstance(self.attack, EvasionAttack) else []
        if not within or any(isinstance(part, QueryCoalescer) for part in within):
            raise InvalidInputError(
                f"attack: expected an evasion attack, e.g. HopSkipJump(classifier), got {type(self.attack).__name__}"
                f"{' with a QueryCoalescer in it' if within else ''}"
            )
        for kind in type(self.attack).__mro__:
            if kind.__module__.startswith("art.") and kind.__name__ in _ONE_FOR_ALL_SAMPLES:
                raise InvalidInputError(
                    f"attack: {kind.__name__} looks for one {_ONE_FOR_ALL_SAMPLES[kind.__name__]} for all samples, and "
                    "would find another for each if its samples were attacked one by one; call it directly"
                )
        if not isinstance(self.attack.estimator, PyTorchClassifier):
            raise InvalidInputError(
                f"attack: expected an attack on a PyTorchClassifier, got one on {type(self.attack.estimator).__name__}"
            )
        check_fields(self, check_whole, "concurrency", "batch_size")
        if self.seed is not None:
            check_fields(self, check_whole, "seed", least=0)
        check_fields(self, check_flag, "verbose")


def _divide(x: Array, y: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Returns the arguments of `generate` that all samples share, and those that have one row for each sample."""
    divided = {"x": x}
    if y is not None:
        divided["y"] = np.asarray(y)
        if divided["y"].shape[:1] != (len(x),):
            raise InvalidInputError(f"y: expected {len(x)} rows, one for each image, got shape {divided['y'].shape}")
    start = kwargs.get("x_adv_init")
    if start is not None:
        divided["x_adv_init"] = np.asarray(start)
        if divided["x_adv_init"].shape != x.shape:
            raise InvalidInputError(
                f"x_adv_init: expected shape {x.shape}, one image for each of x, got {divided['x_adv_init'].shape}"
            )
    mask = kwargs.get("mask")
    if isinstance(mask, np.ndarray) and mask.ndim == x.ndim and len(mask) == len(x):
        divided["mask"] = mask
    return {name: value for name, value in kwargs.items() if name not in divided}, divided


def _own_copy(attack: EvasionAttack, ask: Callable[[Query], Any]) -> EvasionAttack:
    """Returns a copy that shares only the network with `attack`, hands its queries to `ask` and shows no progress."""
    known: dict[int, Any] = {}
    for part in _attacks_within(attack):
        for value in vars(part).values():
            if isinstance(value, PyTorchClassifier):
                known[id(value)] = asking(value, ask)
            elif isinstance(value, BaseEstimator | nn.Module | SummaryWriter):
                known[id(value)] = value
    own: EvasionAttack = copy.deepcopy(attack, known)
    for part in _attacks_within(own):
        if hasattr(part, "verbose"):
            part.verbose = False
    return own


def _attacks_within(attack: Attack) -> Iterator[Attack]:
    """Yields the attack and those that it is made of, as AutoAttack is."""
    yield attack
    for value in vars(attack).values():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Attack):
                yield from _attacks_within(item)


@contextmanager
def _all_stopped_at_the_end(turns: Turns, runs: list[Run]) -> Iterator[None]:
    """Leaves no thread behind, whatever happens, but for a run that may wait for threads of its own for ever."""
    try:
        yield
    finally:
        for run in runs:
            run.stop()
        for run in runs:
            if run.is_alive():
                run.join(None if turns.refusal is None else 1.0)
