"""`FunctionAttack`: an ART attack made of one function on a batch of tensors."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_args

import numpy as np
from art.attacks import EvasionAttack
from art.estimators import BaseEstimator, LossGradientsMixin
from art.estimators.classification import ClassifierMixin, PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from qadv.attacks.batches import Batch, pixel_batches, unit_batches
from qadv.attacks.options import Count, Seed, check_option, is_length, shown
from qadv.errors import AttackError, InvalidInputError, MaskedGradientWarning
from qadv.estimators.checks import check_images, check_labels
from qadv.estimators.masked_gradients import said_of_zeros
from qadv.estimators.module import check_module
from qadv.units import Length, in_pixels, limits, width

_ASKED = ("self", "x", "y", "generators", "clip_values", "limits", "logits", "gradient", "model")
_SHARED = {"targeted": bool, "batch_size": Count, "seed": Seed, "verbose": bool}
_ATTRIBUTES = ("estimator", "partial", "queries")
_NAMED = Parameter.POSITIONAL_OR_KEYWORD


class Found(NamedTuple):
    """The state of an attack on a batch of N images.

    Attributes:
        adversarial: the images as they are now, as `x`.
        queries: images sent through the network so far, for each of the N, (N,) int64; `None` if nobody counts.
        no_gradient: images whose first gradient was all zero, (N,) bool; `None` for attacks without gradients.
    """

    adversarial: Tensor
    queries: Tensor | None = None
    no_gradient: Tensor | None = None


class FunctionAttack(EvasionAttack):
    """Base class of attacks: a subclass says in `run` what is done with one batch, the rest comes from its signature.

        def sign_noise(x, generators, limits, *, eps: Eps = Share(8 / 255)):
            return (x + eps * signs(generators, x.shape[1:])).clamp(*limits)

        class SignNoise(qadv.FunctionAttack):
            run = sign_noise

    `run` is a function, or a method where it needs `self`. It gets what its parameters name:

    - `x`: images (N, *input_shape) on the device, in the units of `clip_values`; `y`: labels or targets, (N,), in whose
      place the network's predictions are put where none were given, unless its annotation allows `None`.
    - `logits`: images (M, *input_shape) → logits (M, nb_classes), without a graph. `gradient`: images and labels (M,) →
      logits, and the gradient of each image's loss; the estimator then has to have gradients.
    - `generators`: one for each image, decided by the seed and its index: an image's fate depends neither on
      `batch_size` nor on the other images, but for rounding.
    - `clip_values`: (low, high), which the estimator then has to have; `limits`: the same, infinite if it has none.
    - `model`: the classifier as one torch module, images in [0, 1] → logits, in evaluation mode. Images, lengths and
      `clip_values` are then in [0, 1] too, and results outside are clipped; parameters get no gradients, even where
      `backward` is called. The estimator has to be a `PyTorchClassifier` with `clip_values`.
    - everything else is an option: an argument of the class, with the same default and in the same order, an attribute,
      in `attack_params`, and checked by its annotation (`qadv.attacks.options`) when it is made and whenever it is set.
      Lengths (`Length`, `Eps`) are given in the units of `clip_values`, as a `Share` of their range or as `"8/255"`.
      `targeted: bool = False` makes an attack one that can be targeted.

    It returns adversarial images, or a `Found`, or yields a `Found` after each step, the last of which is the result.
    The global random states are seeded for each batch and afterwards as before: `seed` decides what a random network
    draws, too. With `batch_size = 256` beside `run` a class has another default than 128.

    Args:
        estimator: an ART classifier that gives logits; of one with qadv's `Softmax` those behind it are taken.
        targeted: `y` are the classes wanted, not those to be left.
        batch_size: rows of one forward pass, at most; so many images are attacked together, see `images_at_once`.
        seed: `None` draws one from numpy's global state, at each `generate`.
        verbose: show progress.

    Attributes:
        queries: after `generate`, images sent through the network for each image, (N,) int64; where `y` is `None`, the
            prediction that takes its place counts too. Missing where `run` does not count.
        partial: the images as far as they were found, also after an interrupted `generate`, (N, *input_shape) float32;
            those that were not reached yet are as given.
        signature_options: of the class, its options by name, without those of every attack.
    """

    run: ClassVar[Callable[..., Any]]
    signature_options: ClassVar[Mapping[str, Parameter]] = MappingProxyType({})
    batch_size: int = 128
    seed: int | None = None
    verbose: bool = True
    partial: NDArray[np.float32]
    queries: NDArray[np.int64]

    _asked: ClassVar[tuple[str, ...]] = ()  # by `run`, also the options
    _options: ClassVar[Mapping[str, Parameter]] = MappingProxyType({})  # all arguments but the estimator
    _needs_labels: ClassVar[bool] = True

    if TYPE_CHECKING:  # options are attributes

        def __getattr__(self, name: str) -> Any: ...

    def __init_subclass__(cls, **members: Any) -> None:
        super().__init_subclass__(**members)
        run = vars(cls).get("run")
        if run is None:
            return
        try:
            parameters = inspect.signature(run, eval_str=True).parameters
        except NameError as error:
            raise TypeError(f"{cls.__name__}.run: its annotations are read at run time, and {error}") from error
        if "self" not in parameters:
            cls.run = staticmethod(run)
        asked = set(parameters)
        if "model" in asked and asked & {"logits", "gradient"}:
            raise TypeError(f"{cls.__name__}.run: the model gives logits and gradients itself; ask for it alone")
        cls._asked = tuple(name for name in parameters if name != "self")
        cls._needs_labels = "y" in asked and NoneType not in get_args(parameters["y"].annotation)
        needs = {"gradient": LossGradientsMixin, "model": PyTorchClassifier}
        more = (kind for name, kind in needs.items() if name in asked)
        cls._estimator_requirements = (BaseEstimator, ClassifierMixin, *more)
        cls.__doc__ = cls.__doc__ or inspect.getdoc(run)
        cls._take(each.replace(kind=max(each.kind, _NAMED)) for name, each in parameters.items() if name not in _ASKED)

    @classmethod
    def _take(cls, options: Iterable[Parameter]) -> None:
        """Makes the constructor from options; those of every attack come last, where they are not among them."""
        taken = {option.name: option for option in options}
        for name, option in taken.items():
            known = name in _ATTRIBUTES or (name not in _SHARED and hasattr(FunctionAttack, name))
            if option.kind in (option.VAR_POSITIONAL, option.VAR_KEYWORD) or known:
                raise TypeError(f"{cls.__name__}.run: {option} can't be an option of an attack; give it another name")
        kind = max((option.kind for option in taken.values()), default=_NAMED)
        for name in ("batch_size", "seed", "verbose"):
            taken.setdefault(name, Parameter(name, kind, default=getattr(cls, name), annotation=_SHARED[name]))
        cls._options = MappingProxyType(taken)
        cls.signature_options = MappingProxyType({n: each for n, each in taken.items() if n not in _SHARED})
        cls.attack_params = [*EvasionAttack.attack_params, *taken]
        if "__init__" not in vars(cls):
            cls.__init__ = _constructor(taken)  # type: ignore[method-assign]

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any) -> NDArray[np.float32]:
        """Returns adversarial images, (N, *input_shape) float32 within `clip_values`.

        Args:
            x: images, (N, *input_shape), float, within `clip_values`.
            y: labels, or targets of a targeted attack: indices (N,) or one-hot (N, nb_classes). `None` takes the
                network's own predictions.

        Raises:
            AttackError: the network's logits or gradients are not finite, or the images that were found.
        """
        name = type(self).__name__
        if kwargs:
            raise InvalidInputError(f"{name}.generate takes x and y; got also {', '.join(kwargs)}")
        x = check_images(x, self.estimator.input_shape, self.estimator.clip_values).astype(np.float32)
        if y is None and self.targeted:
            raise InvalidInputError(f"y: a targeted {name} needs the target classes, got None")
        labels = None if y is None else check_labels(y, len(x), self.estimator.nb_classes)
        seed = int(np.random.randint(2**31)) if self.seed is None else self.seed
        self.partial = x.copy()
        self.queries = queries = np.zeros(len(x), dtype=np.int64)
        without_gradient = 0
        batches = unit_batches if "model" in self._asked else pixel_batches
        at_once = self.images_at_once()
        with (
            batches(self.estimator, self.batch_size) as new_batch,
            tqdm(total=len(x), desc=name, disable=not self.verbose) as bar,
        ):
            for first in range(0, len(x), at_once):
                rows = slice(first, first + at_once)
                batch = new_batch(x[rows], None if labels is None else labels[rows], first, seed)
                arguments = {name: self._argument(name, batch) for name in self._asked}
                queries[rows] += batch.predicted
                found = None
                try:
                    for found in self._steps(batch, arguments):  # noqa: B007
                        pass
                finally:
                    if found is not None:
                        self.partial[rows] = batch.images(found.adversarial)
                        if found.queries is None:
                            self.__dict__.pop("queries", None)
                        else:
                            queries[rows] += found.queries.cpu().numpy()
                if found is not None and found.no_gradient is not None:
                    without_gradient += int(found.no_gradient.sum())
                bar.update(len(x[rows]))
        if without_gradient:
            said = f"{said_of_zeros(without_gradient, len(x))} Attack without gradients too (SPSA)"
            warnings.warn(f"{name}: {said}", MaskedGradientWarning, stacklevel=2)
        if not np.isfinite(self.partial).all():
            raise AttackError(f"{name}.run: its images are NaN or infinite; what it found says nothing")
        np.clip(self.partial, *limits(self.estimator.clip_values), out=self.partial)
        return self.partial

    def images_at_once(self) -> int:
        """Returns how many images are attacked together: fewer where each has several rows in a forward pass."""
        return self.batch_size

    def in_pixels(self, name: str, length: Length) -> float:
        """Returns a length called `name` in the units of `clip_values`: numbers as they are, shares of the range."""
        return in_pixels(name, length, self.estimator.clip_values)

    def in_unit_range(self, distance: Length) -> float:
        """Returns a distance in the units of `clip_values`, or a `Share` of them, as one of pixels in [0, 1]."""
        return float(self.in_pixels("distance", distance)) / width(self.estimator.clip_values)

    def given(self, unit_range: bool = False) -> dict[str, Any]:
        """Returns the options by name, without those of every attack; lengths for pixels in [0, 1] if asked for."""
        return {name: self._value(name, unit_range) for name in self.signature_options}

    def _value(self, name: str, unit_range: bool) -> Any:
        value = getattr(self, name)
        if unit_range and value is not None and is_length(self._options[name].annotation):
            return self.in_unit_range(value)
        return value

    def _argument(self, name: str, batch: Batch) -> Any:
        """Returns the argument of `run` with this name."""
        if name == "y" and not (batch.labelled or self._needs_labels):
            return None
        return getattr(batch, name) if name in _ASKED else self._value(name, "model" in self._asked)

    def _steps(self, batch: Batch, arguments: dict[str, Any]) -> Iterator[Found]:
        batch.start()
        result = self.run(**arguments)
        if isinstance(result, Tensor):
            result = Found(result)
        got = "no step"
        for found in (result,) if isinstance(result, Found) or not isinstance(result, Iterable) else result:
            images = getattr(found, "adversarial", None)
            got = f"a tensor of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(found).__name__
            if not isinstance(found, Found) or not isinstance(images, Tensor) or images.shape != batch.x.shape:
                break
            yield found
        else:
            if got != "no step":
                return
        raise InvalidInputError(
            f"{type(self).__name__}.run: expected adversarial images of shape {tuple(batch.x.shape)}, a tensor or in a "
            f"Found, or one Found at least as steps; got {got}"
        )

    def set_params(self, **kwargs: Any) -> None:
        """Sets options by name: all of them or, if one is invalid, none."""
        before = {name: getattr(self, name) for name in kwargs if name in self._options}
        try:
            super().set_params(**kwargs)
        except InvalidInputError:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _check_params(self) -> None:
        for name, option in self._options.items():
            setattr(self, name, check_option(name, getattr(self, name), option.annotation, self))
        if "clip_values" in self._asked and self.estimator.clip_values is None:
            raise InvalidInputError(
                f"estimator: {type(self).__name__} works in the range of the pixels; give the classifier clip_values"
            )


def _constructor(options: Mapping[str, Parameter]) -> Callable[..., None]:
    """Returns an `__init__` with these options; a subclass with one of its own checks when it is done, as in ART."""
    first = [Parameter("self", _NAMED), Parameter("estimator", _NAMED, annotation=Any)]
    signature = inspect.Signature(
        [*first, *(each.replace(annotation=shown(each.annotation)) for each in options.values())]
    )

    def constructor(self: FunctionAttack, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        EvasionAttack.__init__(self, estimator=bound.arguments["estimator"])
        if "model" in self._asked:
            check_module(self.estimator)
        for name in options:
            setattr(self, name, bound.arguments[name])
        if type(self).__init__ is constructor:
            self._check_params()

    constructor.__name__ = "__init__"
    constructor.__signature__ = signature  # type: ignore[attr-defined]
    return constructor
