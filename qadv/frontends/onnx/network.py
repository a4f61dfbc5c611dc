"""`FileNetwork`: an ONNX file as a torch module, values from its runtime, gradients from a twin."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.backbones.standardisation import keep_picture_settings
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.frontends.frontend import QuantizedTensor
from qadv.frontends.onnx.graph import BY_PIXEL, CLIP_VALUES, Graph, read_graph
from qadv.frontends.onnx.layers import FileLayers, form_of
from qadv.frontends.onnx.layout import Layout, in_chunks
from qadv.frontends.onnx.runtime import Runtime
from qadv.frontends.onnx.twin import Twin, final_softmax, with_real_output
from qadv.frontends.twins import TwinForm
from qadv.units import check_clip_values, limits

_LEAST_PROBABILITY = 1e-30
_NB_DRAWN = 8
_PIXELS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-128.0, 127.0))


class FileTwin(nn.Module):
    """The twin of a file for images (N, *input_shape); see `Twin`.

    Attributes:
        batch: how many images it takes at a time, as the file does; `None` for any number.
        gives_probabilities: whether the graph ends in probabilities, of which the logarithm is taken.
    """

    def __init__(self, graph: Graph, layout: Layout) -> None:
        super().__init__()
        keep_picture_settings(self, graph.pictures)
        self.layout, self.batch, self.gives_probabilities = layout, None, False
        self.graph = Twin(graph, batched=True)
        fixed = graph.input_shape[0]
        if fixed is not None:  # sizes in the graph may be those of its own batch
            x = layout.low + layout.width * torch.rand(
                2, *layout.input_shape, generator=torch.Generator().manual_seed(0)
            )
            alone = Twin(graph, batched=False)
            with torch.no_grad():
                expected = in_chunks(layout.arranged(x), fixed, alone)
                try:
                    together = self(x)
                except UnsupportedModelError:
                    together = None
            if together is None or not torch.allclose(together, expected, rtol=1e-3, atol=1e-3):
                self.graph, self.batch = alone, fixed

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input_shape) → logits (N, classes), with their graph."""
        y = in_chunks(self.layout.arranged(x), self.batch, self.graph)
        return _logarithm(y) if self.gives_probabilities else y


def _logarithm(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(_LEAST_PROBABILITY).log()


class FileNetwork(nn.Module):
    """Images (N, *input_shape) → logits (N, classes), as the file's runtime, here onnxruntime, answers for it.

    Where a gradient is asked for, a twin of the file's graph gives it; otherwise only the runtime works. Nothing in it
    is trained. A file of a fixed batch is asked so many images at a time, and one with dynamic quantization, where the
    images of a batch share their scales, one by one.

    Args:
        path: the file.
        input_shape: shape of one image, channels first; `None` where the file says it.
        clip_values: smallest and largest pixel, which are the ends of what a file with integer images takes, unless it
            says itself what they stand for; `None` for those that the file notes, or 0 and 1.
        output: name of the logits, for a file with several outputs.
        has_twin: whether a twin is made; without one there are no gradients, and the graph need not be read.

    Attributes:
        clip_values: the ends of the pixels, given or noted; `None` for none.
        digest: SHA-256 of the file, and of what it keeps in files beside it.
        twin: a module with gradients, `None` for none.
        layers: what is quantized, layer by layer.
        kernels: how often each kernel of the runtime runs in one pass.
        joined: computes the network, and says how well runtime and twin agree.
        simulated: whether the twin alone computes it instead, values included.

    Raises:
        FileFormatError, StorageError: the file is damaged, or not there.
        UnsupportedModelError: no twin can be made of the graph, or it is no image classifier.
        InvalidInputError: the file leaves sizes open and `input_shape` is missing, or does not fit.
    """

    read_graph = staticmethod(read_graph)  # these two are another's for another kind of files
    runtime: Callable[[bytes, str], Runtime] = Runtime
    simulated = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        input_shape: Sequence[int] | None = None,
        clip_values: tuple[float, float] | None = None,
        output: str | None = None,
        has_twin: bool = True,
    ) -> None:
        super().__init__()
        graph, *self._grid = with_real_output(self.read_graph(path, output))
        self.file = os.path.basename(os.fspath(path))
        keep_picture_settings(self, graph.pictures)
        self.digest = hashlib.sha256(graph.content).hexdigest()
        self.source, self.form, self._output = graph.source, form_of(graph), output
        noted = graph.pictures.get(CLIP_VALUES, (0.0, 1.0)) if clip_values is None else clip_values
        if noted == BY_PIXEL:
            raise InvalidInputError(f"{self.file} is of pixels with a range each: give one, clip_values=(min, max)")
        self.clip_values = check_clip_values(noted)
        low, high = (0.0, 1.0) if self.clip_values is None else limits(self.clip_values)
        self._pixels, self._ends = (low, high), graph.input_ends
        self._layout = Layout.of(graph, input_shape, low, high - low)
        self._logarithm = final_softmax(graph) is not None
        self._batch, self._one_by_one = graph.input_shape[0], self.form == "dynamic quantization"
        self.twin: FileTwin | None = None
        self.layers = FileLayers()
        if has_twin:
            try:
                self.twin = FileTwin(graph, self._layout)
            except UnsupportedModelError as error:
                raise UnsupportedModelError(
                    f"{self.file}: {error}. With surrogate=net, a float torch network of the same images and classes, "
                    "the values are the file's and the gradients that network's"
                ) from error
            self.layers = FileLayers(graph, self.twin.graph)
            self.twin.graph.forget()
        self._runtime = type(self).runtime(graph.content, self.file)
        noise = torch.rand(self._batch or _NB_DRAWN, *self.input_shape, generator=torch.Generator().manual_seed(0))
        images = self._layout.as_array(self._layout.low + self._layout.width * noise)
        try:
            found = self._numbers(images)
            self.kernels = self._runtime.kernels(images[: self._batch or 1])
        except Exception as error:
            raise UnsupportedModelError(
                f"{self._runtime.version} fails on {self.file} for {len(images)} images of shape {self.input_shape}: "
                f"{' '.join(str(error).split())}"
            ) from error
        self.nb_classes = self._checked_classes(found, len(images))
        if not self._logarithm and (found >= 0).all() and np.allclose(found.reshape(len(found), -1).sum(1), 1, 0, 1e-3):
            self._logarithm = True  # of a softmax in parts, or within another operator
            if self.twin is not None:
                self.twin.gives_probabilities = True
        self.joined = TwinForm(self._values, self.twin, name="a twin's, made from the graph")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, channels first."""
        return self._layout.input_shape

    @property
    def takes_bytes(self) -> bool:
        """Whether the file takes pixels as bytes, and does not say what numbers they stand for."""
        return self._layout.takes_integers and self._ends is None

    def preprocessing(self) -> tuple[float, float]:
        """Returns the (mean, std) that make of pixels what the file takes, where its codes are all pixels there are.

        Where it says what its codes stand for, and that may be another range of pixels, that is an `InvalidInputError`.
        """
        if self._ends is None or not self._layout.takes_integers:
            return 0.0, 1.0
        (low, high), (first, last), step = self._pixels, self._ends, 1.01 * self._layout.step
        if max(abs(first - low), abs(last - high)) <= step:
            return 0.0, 1.0
        # codes with a sign are often symmetric: from -1 to 1 may be for pixels from 0 to 1
        usual = _PIXELS if self._layout.kind == "UINT8" else [ends for ends in _PIXELS if ends[0] == 0]
        if not any(max(abs(first - ends[0]), abs(last - ends[1])) <= step for ends in usual):
            raise InvalidInputError(
                f"{self.file} takes numbers from {first:.4g} to {last:.4g} as codes; say how pixels become these: "
                "preprocessing=(mean, std), which are 0 and 1 for pixels that are these numbers"
            )
        std = (high - low) / (last - first)
        return low - first * std, std

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input_shape) → (N, classes), the runtime's own answers, or the twin's if simulated."""
        logits: Tensor = self.twin(x) if self.simulated and self.twin is not None else self.joined(x)
        return logits

    def quantizers(self, name: str = "") -> Iterator[QuantizedTensor]:
        """Yields what is quantized in the file, of a network that has it as the module of that name."""
        if self.twin is not None:
            for each in self.layers.quantizers(self.twin.graph):
                yield replace(each, layer=f"{name}.layers.{each.layer}".lstrip("."))

    def describe(self) -> str:
        """Returns what was found: the file, its layers' bits, the runtime and its kernels, how exact the twin is."""
        found = list(self.quantizers())
        inputs = {each.layer: each.scheme for each in found if each.role == "input"}
        weights = {each.layer: each.scheme for each in found if each.role == "weights"}
        names = [f"layers.{name}" for name in self.layers._modules]
        bits = sorted({f"{weights.get(n, 'float')} weights and {inputs.get(n, 'float')} inputs" for n in names})
        lines = [
            f"{self.file}, SHA-256 {self.digest}",
            f"written by {self.source}; {self.form}; {len(names)} layers with weights: {'; '.join(bits)}",
            f"values: {'simulated in torch, beside ' if self.simulated else ''}{self._runtime.version}, "
            f"{torch.backends.cpu.get_cpu_capability()}{self._runtime.remark()}",
            "kernels: " + ", ".join(f"{name} {count}" for name, count in self.kernels.most_common()),
            f"gradients: {self.joined.gradients_of or 'none, or those of the surrogate that is given'}",
        ]
        if self._logarithm:
            lines.append("logits: the logarithm of the probabilities that the file gives")
        if self.joined.difference is not None:
            lines.append(f"logits of both differ by up to {self.joined.difference:.2g}")
        return "\n".join(lines)

    def extra_repr(self) -> str:
        return f"{self.file}, sha256={self.digest[:16]}{', simulated' if self.simulated else ''}"

    def _numbers(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Images as the file takes them → what it gives, also where that is codes."""
        found, (scale, zero) = self._runtime(images, self._output), self._grid
        return found if (scale, zero) == (1, 0) else (found - np.float32(zero)) * np.float32(scale)

    def _checked_classes(self, found: NDArray[Any], count: int) -> int:
        sizes = found.shape[1:]
        if len(found) != count or max(sizes, default=0) != prod(sizes) or prod(sizes) < 2:
            raise UnsupportedModelError(
                f"{self.file} gives an output of shape {found.shape} for {count} images; expected the logits of two or "
                "more classes, (N, classes)"
            )
        return prod(sizes)

    @torch.no_grad()
    def _values(self, x: Tensor) -> Tensor:
        def ask(chunk: Tensor) -> Tensor:
            if self._one_by_one and self._batch is not None:  # copies of an image have the range of that image
                chunk = chunk.expand(self._batch, *chunk.shape[1:])
            return torch.from_numpy(self._numbers(self._layout.as_array(chunk))).flatten(1)

        if self._one_by_one:
            found = torch.cat([ask(image)[:1] for image in torch.split(x.detach().cpu(), 1)]).to(x.device)
        else:
            found = in_chunks(x.detach().cpu(), self._batch, ask).to(x.device)
        return _logarithm(found) if self._logarithm else found
