"""Whether an exported ONNX graph decides as the classifier does, on clean images and on attacked ones."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from numpy.typing import NDArray

from qadv.checks import check_whole
from qadv.deployment.onnx_graph import INPUT
from qadv.errors import FileFormatError, InvalidInputError
from qadv.estimators.checks import check_images, check_pair
from qadv.estimators.protocol import Classifier
from qadv.files import check_is_file
from qadv.frontends.onnx.layout import Layout
from qadv.frontends.onnx.runtime import Runtime
from qadv.sources import is_source
from qadv.strengths import check_eps
from qadv.units import ClipValues, Length, Share, limits


@dataclass(frozen=True)
class Agreement:
    """An ONNX graph against the classifier it was made from, on the same images.

    Attributes:
        images: `"clean"`, or the attack's name.
        samples: number of images.
        same_class: share of images on which both predict the same class, 0 to 1.
        largest_difference: largest difference of a logit.
        classifier_accuracy: accuracy of the classifier; `None` without labels.
        onnx_accuracy: accuracy of the graph; `None` without labels.
        deployed_same_class: share on which the graph predicts the class of the simulation that rounds what it rounds;
            `None` where that was not given, likewise:
        deployed_accuracy: accuracy of that simulation; `None` without labels, too.
    """

    images: str
    samples: int
    same_class: float
    largest_difference: float
    classifier_accuracy: float | None
    onnx_accuracy: float | None
    deployed_same_class: float | None = None
    deployed_accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return asdict(self)


class OnnxNetwork:
    """Runs a graph that `qadv.export` wrote in onnxruntime; one that takes bytes, 0 to 255 over `clip_values`.

    With `as_written` it is the arithmetic that the graph says, in float. Left to itself, onnxruntime computes quantized
    graphs in integers, and rounds biases and weights that are float in a QCDQ graph.

    Raises:
        MissingRequirementError: onnxruntime is not installed.
        FileFormatError: onnxruntime can't load the file, or it takes something else than images.
        StorageError: there is no such file.
    """

    def __init__(
        self, path: str | os.PathLike[str], as_written: bool = False, clip_values: ClipValues | None = None
    ) -> None:
        check_is_file(path)
        settings = {"session.disable_quant_qdq": "1"} if as_written else {}
        self._runtime = Runtime(Path(path).read_bytes(), os.fspath(path), settings)
        inputs = self._runtime.session.get_inputs()
        if (names := [each.name for each in inputs]) != [INPUT]:
            raise FileFormatError(f"{os.fspath(path)}: expected the one input {INPUT!r}, found {', '.join(names)}")
        low, high = limits((0.0, 1.0) if clip_values is None else clip_values)
        kind = "UINT8" if "uint8" in inputs[0].type else "FLOAT"
        self._layout = Layout(tuple(inputs[0].shape[1:]), "as it is", (), kind, low, high - low)

    def predict(self, x: NDArray[Any], batch_size: int = 128) -> NDArray[np.float32]:
        """Returns logits (N, classes) for images (N, *input_shape) in `clip_values`; errors as of `check_images`."""
        x = check_images(x, self._layout.input_shape, None).astype(np.float32)
        x = self._layout.as_array(torch.from_numpy(x))
        starts = range(0, len(x), batch_size)
        return np.concatenate([self._runtime(x[start : start + batch_size]) for start in starts])


def agreement(
    classifier: Classifier,
    path: str | os.PathLike[str] | Classifier,
    x: NDArray[Any],
    y: NDArray[Any] | None = None,
    eps: Length = Share(8 / 255),
    max_iter: int = 10,
    batch_size: int = 128,
    as_written: bool = False,
    deployed: Classifier | None = None,
) -> tuple[Agreement, Agreement]:
    """Compares a file with its classifier on images, (N, *input_shape), and on their PGD versions.

    PGD is white-box on the classifier: L∞, `max_iter` steps of `eps / 4`, from the image itself.

    Args:
        path: the ONNX file that `qadv.export` wrote, or any file as the classifier that `from_file` made of it.
        y: labels; without them the attack leads away from the classifier's own decisions.
        eps: radius of the attack, in the unit of `clip_values`; default 8/255 of their range.
        as_written: see `OnnxNetwork`.
        deployed: the simulation with all that the file rounds, `QuantizedClassifier.from_file(path, deploy=True)`.

    Returns:
        The agreement on the clean and on the attacked images.

    Raises:
        InvalidInputError: images, labels or `eps` are off, or the graph is of another classifier.
    """
    eps = check_eps("eps", eps, classifier.clip_values)
    max_iter, batch_size = check_whole("max_iter", max_iter), check_whole("batch_size", batch_size)
    if y is None and not is_source(x):
        x, labels = check_images(x, classifier.input_shape, classifier.clip_values), None
    else:
        x, labels = check_pair(classifier, x, y)
    x = x.astype(np.float32)
    network: Any = path
    if isinstance(path, str | os.PathLike):
        network = OnnxNetwork(path, as_written, classifier.clip_values)
    attack = ProjectedGradientDescent(
        classifier, eps=eps, eps_step=eps / 4, max_iter=max_iter, batch_size=batch_size, verbose=False
    )
    attacked = attack.generate(x, labels)
    results = []
    for name, images in (("clean", x), (f"PGD, eps {eps:.3g}, {max_iter} steps", attacked)):
        ours, theirs = classifier.predict(images, batch_size=batch_size), network.predict(images, batch_size=batch_size)
        between = None if deployed is None else deployed.predict(images, batch_size=batch_size).argmax(1)
        if ours.shape != theirs.shape:
            raise InvalidInputError(
                f"the graph gives logits {theirs.shape}, the classifier {ours.shape}: it is another one's"
            )
        difference = float(np.abs(ours - theirs).max())
        ours, theirs = ours.argmax(1), theirs.argmax(1)
        shares = _share(ours, labels), _share(theirs, labels), _share(between, theirs), _share(between, labels)
        results.append(Agreement(name, len(images), _share(ours, theirs) or 0.0, difference, *shares))
    return results[0], results[1]


def _share(a: NDArray[Any] | None, b: NDArray[Any] | None) -> float | None:
    return None if a is None or b is None else float((a == b).mean())
