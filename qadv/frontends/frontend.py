"""What a front end says of a network: how it is quantized, and how it is computed in evaluation mode."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from qadv.errors import UnsupportedModelError
from qadv.quantization.form import Form, FormOptions, Part

Function = Callable[[Tensor], Tensor]


def _as_it_is(function: Function) -> Function:
    return function


class EvaluationForm(Protocol):
    """Computes what a network does in evaluation mode: images (N, …) → logits, or what another of its methods gives.

    Attributes:
        options: how the arithmetic is done.
    """

    options: FormOptions

    def __call__(self, x: Any, method: str = "__call__") -> Any: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedTensor:
    """One quantizer of a network.

    Attributes:
        layer: name of the module whose weights, input or output it quantizes, as in `network.named_modules()`.
        role: which of these; "products" for the operands of those that its code has.
        scheme: what its users call it, e.g. `"int:4"` or `"Int8WeightPerTensorFloat"`.
        bits: of one code.
        scale: distance of two neighbouring levels, one or one for each filter; `None` where there is no such number.
        estimator: what stands for the derivative of the rounding, e.g. `"straight-through, clipped"`.
        origin: name of the front end.
    """

    layer: str
    role: Literal["weights", "input", "output", "products"]
    scheme: str
    bits: int
    scale: Tensor | None
    estimator: str = "straight-through"
    origin: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedWeights(QuantizedTensor):
    """Weights as a layer computes with them.

    Attributes:
        value: the quantized weights, shaped as the layer's, without gradient.
        codes: the integer code of each weight, same shape; `None` where they are not stored as integers.
        nb_codes: how many codes the scheme has.
        latent: the weights that are quantized; `None` where only the quantized ones are there.
        parameter: the parameter that holds the latent weights, or `None`.
        beside: how many float32 numbers are packed with weights that are no parameter, as a bias.
        code_values: all codes that can be stored, whole numbers, ascending, (codes,); empty where that is not known.
        place: where what the layer computes with is found, and its key there; `None` where it can't be replaced.
        made: makes what is put in that place of codes, shaped as `codes` and floating, with their graph.
    """

    value: Tensor
    codes: Tensor | None = None
    nb_codes: int = 0
    latent: Tensor | None = None
    parameter: nn.Parameter | None = None
    beside: int = 0
    code_values: Tensor = field(default_factory=lambda: torch.empty(0))
    place: tuple[dict[str, Any], str] | None = None
    made: Callable[[Tensor], Any] = Tensor.float

    @contextmanager
    def replaced_by(self, codes: Tensor) -> Iterator[None]:
        """Lets the network itself (of a file its twin), in evaluation mode, compute with other codes in the block.

        Gradients reach the codes, which need not be whole numbers, or `code_values`. A layer that computes with
        something else than codes is an `UnsupportedModelError`.
        """
        if self.place is None:
            raise UnsupportedModelError(
                f"{self.layer}: these weights ({self.origin}) can't be replaced by other codes; those of an ONNX file, "
                "and of networks of qadv.quantize and Brevitas, can"
            )
        owner, name = self.place
        before = owner.get(name)
        owner[name] = self.made(codes)
        try:
            yield
        finally:
            if before is None:
                del owner[name]
            else:
                owner[name] = before


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedActivation(QuantizedTensor):
    """What quantizes activations, or the input of a layer.

    Attributes:
        levels: all values that it can give, ascending, (levels,); empty where its scale follows what comes.
        at: name of the module that what is quantized enters first; `""` for `layer`, `None` for none.
        place: object and attribute where the function that quantizes is found; another one put there is called instead.
        adapted: makes of a function of a tensor what is called in that place, which may return more than a tensor.
    """

    levels: Tensor = field(default_factory=lambda: torch.empty(0))
    place: tuple[object, str]
    at: str | None = ""
    adapted: Callable[[Function], Callable[..., Any]] = _as_it_is

    def function(self) -> Function:
        """Returns what quantizes now, (N, …) → the same shape, with the network's own gradient."""
        owner, name = self.place
        found: Function = getattr(owner, name)
        return found

    def ends(self, x: Tensor) -> tuple[float, float]:
        """Returns the lowest and the highest level, for a batch (N, …) where its scale follows what comes."""
        low, high = (self.levels if len(self.levels) else x.detach()).aminmax()
        return low.item(), high.item()

    def squash(self, x: Tensor) -> Tensor:
        """Returns what is rounded, shaped as `x`: `x` itself."""
        return x

    def unquantized(self, x: Tensor) -> Tensor:
        """Returns what the float network has in this place, shaped as `x`: `x` itself."""
        return x

    @contextmanager
    def replaced_by(self, function: Function) -> Iterator[None]:
        """Lets the network quantize by another function, for the time of a block."""
        owner, name = self.place
        vars(owner)[name] = self.adapted(function)
        try:
            yield
        finally:
            del vars(owner)[name]


class NetworkFrontend(ABC):
    """How networks of one origin are read; everything in qadv that asks what is quantized asks a front end.

    Attributes:
        name: for people, as `"brevitas"`.
        folds: whether a form may have BatchNorm folded in without being asked for it.
        exports: whether `qadv.export` may write such a network to a file.
        suffixes: of files that are networks by themselves and that `read` makes modules of, as `(".onnx",)`.
        packages: distributions that compute what such files answer: those that are installed are in a study's keys.
        writes: whether `written` makes such files, for `qadv.export(…, to=name)`.
    """

    name: ClassVar[str] = ""
    folds: bool = False
    exports: bool = True
    suffixes: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[bool] = False

    @abstractmethod
    def recognises(self, network: nn.Module) -> bool:
        """Whether some module of the network is of this origin; quick, and without importing its toolkit."""

    @abstractmethod
    def quantizers(self, network: nn.Module) -> list[QuantizedTensor]:
        """Returns all quantizers of this origin, in order of registration; the network stays as it is."""

    def files(self, network: nn.Module) -> dict[str, str]:
        """Returns the files that compute in a network, by module and name, with their SHA-256: they are what ships."""
        return {}

    def objection(self, network: nn.Module) -> str:
        """Returns why a network can't be attacked in the state that it is in, and what to do; `""` if it can."""
        return ""

    def parts(self, network: nn.Module, options: FormOptions, x: Tensor) -> list[Part]:
        """Returns what stands in for the network's modules in its form, by default nothing.

        A `NoFormError` says that the network has to compute itself.
        """
        return []

    def form(self, network: nn.Module, options: FormOptions) -> EvaluationForm:
        """Returns what computes the network in evaluation mode: values to the bit, gradients the network's own."""
        return Form(network, options, self.parts)

    def read(self, path: str | PathLike[str], **arguments: Any) -> nn.Module:
        """Returns the network that a file of one of the `suffixes` is: a `FileNetwork`, made with these arguments."""
        raise NotImplementedError

    def written(self, graph: Any) -> bytes:
        """Returns a file that computes what an integer graph does: see `qadv.deployment.integer_graph`.

        Operators that such a file can't have are named in an `UnsupportedModelError`.
        """
        raise NotImplementedError
