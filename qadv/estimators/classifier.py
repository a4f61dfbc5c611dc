"""`QuantizedClassifier`: a quantized (or float) network that ART takes for its own."""

import copy
import os
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.backbones.create import create_backbone
from qadv.backbones.float_weights import load_float_weights
from qadv.backbones.recipes import recipe_of
from qadv.backbones.standardisation import own_standardisation, report_standardisation
from qadv.checks import check_flag, check_whole
from qadv.errors import InvalidInputError, UnsupportedModelError
from qadv.estimators import door, storage
from qadv.estimators.activations import activations, find_layer
from qadv.estimators.arguments import (
    check_defences,
    check_input_shape,
    check_loss,
    check_preprocessing,
    standardised,
)
from qadv.estimators.attacked import AttackedNetwork
from qadv.estimators.batches import answers_alone
from qadv.estimators.checks import check_images, check_labels, check_targets, check_tensor, report_range
from qadv.estimators.first_image import check_model
from qadv.estimators.form_choice import choose_form
from qadv.estimators.forms import labels_as_array, outermost
from qadv.estimators.logits import Logits
from qadv.estimators.masked_gradients import report_masking
from qadv.estimators.oracle import asks_the_network
from qadv.estimators.streamed import takes_sources
from qadv.estimators.upkeep import run_after_steps
from qadv.frontends.find import frontend_of
from qadv.modes import held_network, in_mode, kept
from qadv.network_lock import lock_of
from qadv.postprocessors.softmax import Softmax, with_softmax
from qadv.quantization.calibration import Calibration, CalibrationImages
from qadv.quantization.convert import quantize
from qadv.quantization.rules import Schemes
from qadv.units import ClipValues, check_clip_values

Array = NDArray[Any]
_LEAST_VALUES_PER_BATCH = 2**19
_FEW_ROWS = 16


def _attacked(model: nn.Module, fold: bool, surrogate: nn.Module | None) -> AttackedNetwork:
    if surrogate is not None and not isinstance(surrogate, nn.Module):
        raise InvalidInputError(f"surrogate: expected a torch.nn.Module, got {type(surrogate).__name__}")
    if surrogate is None and fold:
        return AttackedNetwork.of(model)
    return AttackedNetwork(held_network(model), surrogate=None if surrogate is None else held_network(surrogate))


@asks_the_network
@takes_sources
class QuantizedClassifier(PyTorchClassifier):
    """A `PyTorchClassifier` that ART's attacks, trainers and defences accept, with its boundary checked.

    What attacks rely on lives in the module that `model` returns: float64 queries are cast to float32 there, so that a
    plain `PyTorchClassifier` rebuilt from `model`, as several ART attacks do, behaves the same.

    Args:
        model: float or quantized network, (N, *input_shape) → (N, nb_classes) logits.
        loss: training loss, e.g. `torch.nn.CrossEntropyLoss()`.
        input_shape: shape of one image, channels first, e.g. (3, 32, 32).
        nb_classes: number of logits, at least 2.
        optimizer: for ART's own trainers and `fit`; qadv's trainers make one where it is `None`.
        channels_first: as in ART; `True` for everything qadv builds.
        clip_values: smallest and largest pixel value; or two arrays, one value for each channel or pixel, for ART's own
            attacks.
        preprocessing_defences: ART preprocessors.
        postprocessing_defences: ART postprocessors.
        preprocessing: (mean, std) in the units of `clip_values`, scalars or one value per channel, applied inside the
            estimator; `None` is (0, 1), as are pixels that are not standardised.
        device_type: `"gpu"` (falls back to the CPU where there is none) or `"cpu"`.
        probabilities: `predict` returns probabilities, for the attacks that ask for them; a `Softmax` goes before the
            other postprocessors. Gradients stay those of the logits.
        fold: in evaluation mode a network that `qadv.quantize` made is computed with its BatchNorms folded into the
            layers before them and channels last, if it then answers as it did (`model.form_options` says so); a module
            that another classifier holds goes on as there. `False` keeps the network's own arithmetic, to the bit.
        surrogate: a network, images → logits, whose gradients are taken in evaluation mode for those of a network that
            has none or bad ones (backward pass differentiable approximation); values stay the network's own.

    Raises:
        InvalidInputError: the model does not map such images to that many logits, or another argument is off.

    Warns:
        UserWarning: the network is not the same function with BatchNorm folded, and so is computed as it is.
        PixelRangeWarning: no `preprocessing` was given, and the model is a timm one, which comes with mean and std.
    """

    _model_wrapper = Logits

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        input_shape: tuple[int, ...],
        nb_classes: int,
        optimizer: torch.optim.Optimizer | None = None,
        channels_first: bool = True,
        clip_values: ClipValues | None = (0.0, 1.0),
        preprocessing_defences: Any = None,
        postprocessing_defences: Any = None,
        preprocessing: Any = None,
        device_type: str = "gpu",
        probabilities: bool = False,
        fold: bool = True,
        surrogate: nn.Module | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidInputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        script = torch.jit.ScriptModule
        if found := [name or "model" for name, part in model.named_modules() if isinstance(part, script)]:
            raise InvalidInputError(
                f"{found[0]}: TorchScript hides its layers; give the torch.nn.Module that it was made from"
            )
        nb_classes = check_whole("nb_classes", nb_classes, least=2)
        fold = check_flag("fold", fold)
        shape = check_input_shape(input_shape)
        channels_first = check_flag("channels_first", channels_first)
        nb_channels = shape[0 if channels_first else -1]
        limits = check_clip_values(clip_values, shape)
        if preprocessing is None:
            report_standardisation(model, nb_channels, outermost(limits))
            preprocessing = (0.0, 1.0)
        if check_flag("probabilities", probabilities):
            postprocessing_defences = with_softmax(postprocessing_defences)
        super().__init__(
            model=_attacked(model, fold, surrogate),
            loss=check_loss(loss),
            input_shape=shape,
            nb_classes=nb_classes,
            optimizer=optimizer,
            channels_first=channels_first,
            clip_values=limits,
            preprocessing_defences=check_defences(preprocessing_defences, limits),
            postprocessing_defences=postprocessing_defences,
            preprocessing=check_preprocessing(preprocessing, nb_channels),
            device_type=device_type,
        )
        self._limits = limits
        lock_of(self.network)  # from now on, of one thread at a time
        if objection := frontend_of(self.network).objection(self.network):
            raise UnsupportedModelError(objection)
        self._check_model()
        if not isinstance(model, AttackedNetwork):
            choose_form(self, fold=fold)
        if optimizer is not None:
            run_after_steps(optimizer, self.network)

    @classmethod
    def from_backbone(
        cls,
        name: str,
        weights: Schemes = "int:4",
        activations: Schemes = "relu6:4",
        skip_first_last: bool = True,
        calibration: Calibration | CalibrationImages | None = None,
        input_shape: tuple[int, ...] = (3, 32, 32),
        nb_classes: int = 10,
        checkpoint_path: str | os.PathLike[str] | None = None,
        loss: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        clip_values: ClipValues | None = (0.0, 1.0),
        preprocessing_defences: Any = None,
        postprocessing_defences: Any = None,
        preprocessing: Any = None,
        device_type: str = "gpu",
        probabilities: bool = False,
        fold: bool = True,
        attention: Schemes = "float",
        **options: Any,
    ) -> Self:
        """Makes a classifier from a backbone's name.

        Args:
            name: any built-in, plugin or timm backbone, e.g. `"resnet20"`, `"resnet18"`.
            weights, activations, skip_first_last, attention: see `qadv.quantize`; all `"float"` is the float network.
            calibration: images (N, *input_shape) in `clip_values`, or a `Calibration` with such images, as
                `qadv.quantize` takes them. They are standardised by `preprocessing` here.
            input_shape: (channels, height, width).
            checkpoint_path: the float network's weights, loaded before quantizing: a state dict as safetensors, or as
                `torch.save` wrote it (`.pth`), which is read without running code.
            loss: default `torch.nn.CrossEntropyLoss()`.
            optimizer: it can only be made from `classifier.model` afterwards, so usually `None` here.
            preprocessing: (mean, std); `None` for those that the backbone comes with: timm's own, which are scaled to
                `clip_values`, and none for qadv's backbones.
            options: passed to the backbone, e.g. `aggregation="convex"`, `depth=16`, `pretrained=True` (timm). Other
                arguments are those of the class.
        """
        fold = check_flag("fold", fold)
        model = create_backbone(name, nb_classes=nb_classes, in_channels=input_shape[0], **options)
        if preprocessing is None:
            own = own_standardisation(
                model, input_shape[0], outermost(check_clip_values(clip_values, tuple(input_shape)))
            )
            preprocessing = (0.0, 1.0) if own is None else own
        if checkpoint_path is not None:
            load_float_weights(model, checkpoint_path)
        if (weights, activations, attention) != ("float", "float", "float"):
            if calibration is not None:
                calibration = standardised(Calibration.of(calibration), preprocessing, input_shape, clip_values)
            model = quantize(model, weights, activations, skip_first_last, calibration, attention)
        elif calibration is not None:
            raise InvalidInputError("calibration: there is nothing to calibrate in a float network; leave it out")
        classifier = cls(
            AttackedNetwork(model),  # whose form is chosen below, once, by the calibration images too
            loss if loss is not None else nn.CrossEntropyLoss(),
            input_shape,
            nb_classes,
            optimizer=optimizer,
            clip_values=clip_values,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
            preprocessing=preprocessing,
            device_type=device_type,
            probabilities=probabilities,
        )
        choose_form(classifier, None if calibration is None else Calibration.of(calibration).images, fold)
        return classifier

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        input_shape: tuple[int, ...] | None = None,
        nb_classes: int | None = None,
        images: Array | None = None,
        surrogate: nn.Module | None = None,
        output: str | None = None,
        deploy: bool = False,
        **arguments: Any,
    ) -> Self:
        """Makes a classifier of an ONNX file: values from onnxruntime, gradients from a twin made from its graph.

        `classifier.network.describe()` says what was found; docs/files.md has more.

        Args:
            path: the file, quantized or not.
            input_shape: shape of one image, channels first; `None` where the file says it.
            nb_classes: number of logits; `None` for those of the file.
            images: (N, *input_shape) in `clip_values`, on which twin and runtime are compared, beside random ones.
            surrogate: a float torch network whose gradients are taken, where the graph can't be read.
            output: name of the logits, where the file has several outputs.
            deploy: values are the twin's, too: a simulation in torch that rounds all that the file rounds, biases,
                sums, pools and ends included. It gives the runtime's codes but for ties, also on a GPU.
            arguments: as the class takes them, e.g. `clip_values=(0, 255)`, `preprocessing=(mean, std)`.

        Raises:
            FileFormatError, StorageError: the file is damaged, keeps data outside its folder, or is not there.
            UnsupportedModelError: it has operators that can't be read, or is no image classifier.
            InvalidInputError: it leaves sizes open that are missing here, or an argument is off.

        Warns:
            UserWarning: the twin gives another class than the runtime on more than 1 % of the images.
        """
        deploy = check_flag("deploy", deploy)
        return storage.from_file(cls, path, input_shape, nb_classes, images, surrogate, output, deploy, arguments)

    @property
    def network(self) -> nn.Module:
        """The network that was given, untouched; `model` holds it."""
        return held_network(self.model)

    @property
    def clip_values(self) -> ClipValues | None:
        """Smallest and largest pixel value as Python numbers, which some attacks ask for; ART's are NumPy's.

        Arrays of an image's shape where the classifier was given a range for each channel or pixel.
        """
        if self._clip_values is None or self._clip_values[0].ndim:
            return None if self._clip_values is None else (self._clip_values[0], self._clip_values[1])
        return float(self._clip_values[0]), float(self._clip_values[1])

    @property
    def probabilities(self) -> bool:
        """Whether `predict` returns probabilities instead of logits."""
        return any(isinstance(defence, Softmax) for defence in self.postprocessing_defences or [])

    def predict(self, x: Array, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> Array:
        """Returns logits (or `probabilities`), (N, nb_classes) float32, for images (N, *input_shape) in `clip_values`.

        Images are an array; or a `DataLoader` or `Dataset` of torch's, or ART's `PyTorchDataGenerator`, with labels or
        without, in whose order the answers come: no more than a batch of them is held.

        A `batch_size` of a few rows is raised: ZOO asks for single rows of the many it has, and gets them in batches of
        half a million pixel values, which changes nothing but the time. It is left where the answers would be others,
        as those of layers that find a scale for each batch.

        Raises:
            InvalidInputError: wrong shape, dtype or scale, NaN, or no image at all.
        """
        x, batch_size = self._checked_images(x), check_whole("batch_size", batch_size)
        if not training_mode and batch_size < min(_FEW_ROWS, len(x)) and answers_alone(self):
            batch_size = max(batch_size, min(_LEAST_VALUES_PER_BATCH // x[0].size, 1024))
        with in_mode(self.model, training_mode):
            return door.predict(self, x, batch_size)

    def fit(self, x: Array, y: Array, batch_size: int = 128, nb_epochs: int = 10, **kwargs: Any) -> None:
        """ART's own training loop, after checking images and labels; defenses have trainers of their own."""
        if self.optimizer is None:
            raise InvalidInputError(
                "fit needs an optimizer, e.g. QuantizedClassifier(..., optimizer=SGD(model.parameters(), lr=0.1)); "
                "qadv's trainers, e.g. DefensiveQuantTrainer, make their own"
            )
        x = self._checked_images(x)
        labels = self._one_hot(y, len(x))
        with lock_of(self.network):
            super().fit(x, labels, batch_size=batch_size, nb_epochs=nb_epochs, **kwargs)

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        """Returns the gradient of the loss with respect to `x`, same shape; labels as indices or one-hot.

        Raises:
            AttackError: it is NaN or infinite for some image.

        Warns:
            MaskedGradientWarning: it is exactly zero for some image; once for each classifier.
        """
        x = self._checked_images(x)
        labels = self._one_hot(y, len(x))
        with in_mode(self.model, training_mode):
            _, _, gradient = door.gradient(self, x, labels, door.own_loss(self))
        report_masking(self, gradient)
        return gradient

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        """Returns the gradient of each class's logit, (N, classes or 1, *input_shape); `label` as in ART.

        Raises, warns: as `loss_gradient`.
        """
        x = self._checked_images(x)
        if label is not None:
            each = labels_as_array(label, "label")
            each = np.full(len(x), each) if each.ndim == 0 else each
            label = check_labels(each, len(x), self.nb_classes, "label")
        with in_mode(self.model, training_mode):
            gradient = door.class_gradients(self, x, label)
        report_masking(self, gradient)
        return gradient

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", **kwargs: Any) -> Any:
        """Returns the loss of each image, (N,), or its mean or sum; labels as indices or one-hot."""
        if reduction not in ("none", "mean", "sum"):
            raise InvalidInputError(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
        x = self._checked_images(x)
        labels = self._one_hot(y, len(x))
        labels = torch.as_tensor(labels, device=x.device) if isinstance(x, Tensor) else labels
        with in_mode(self.model, training=False), kept(self, "_loss"):
            self._loss = copy.copy(self.loss)  # ART sets its reduction, and classifiers may share it
            return super().compute_loss(x, labels, reduction=reduction, **kwargs)

    def get_activations(
        self, x: Any, layer: int | str | None = None, batch_size: int = 128, framework: bool = False
    ) -> Any:
        """Returns what a layer gives, (N, …), as an array, or with `framework` as a tensor with its graph, in one pass.

        Args:
            x: images (N, *input_shape), array or tensor.
            layer: any name in `model.named_modules()`, or an index into `layer_names`.

        Raises:
            InvalidInputError: there is no such layer, it does not run, or it gives no tensor.
        """
        x = self._checked_images(x)
        name, module = find_layer(self.model, layer, self.layer_names)
        with in_mode(self.model, training=False):
            if framework:
                images = torch.as_tensor(door.prepare(self, x)[0], device=self.device)
                return activations(self.model, images, name, module)
            ask = partial(activations, self.model, name=name, module=module)
            return door.in_batches(self, x, check_whole("batch_size", batch_size), ask)

    def __getstate__(self) -> dict[str, Any]:
        """For `copy.deepcopy` and for the processes that attacks start; ART's own writes the weights to a folder."""
        return vars(self) | {"_model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._model = self._make_model_wrapper(state["_model"])
        if self._optimizer is not None:
            run_after_steps(self._optimizer, self.network)

    def save(self, filename: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> None:
        """Writes weights and a JSON header that rebuilds the classifier as one safetensors file, atomically.

        `path` is the folder of `filename`, e.g. `"net.safetensors"`; `None` takes that as the whole path.

        Raises:
            StorageError: the file could not be written; an older one is untouched.
        """
        storage.save(self, Path(path or "") / filename)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | None = None, **arguments: Any) -> Self:
        """Rebuilds a saved classifier.

        Args:
            path: a file that `save` wrote, or `qadv.export` in its packed form: that gives a frozen network. What is
                called `.onnx` goes to `from_file`.
            model: the *float* network, where it was not made from a backbone's name; it is quantized as saved.
            arguments: replace or complete what was saved, e.g. `device_type="cpu"`, `loss=...`, `optimizer=...`.

        Raises:
            FileFormatError: truncated, foreign, or not fitting the model.
            InvalidInputError: the file does not say how to build the network, and `model` is missing.
        """
        return storage.load(cls, path, model, arguments)

    def __repr__(self) -> str:
        recipe = recipe_of(self.model)
        if recipe is None or not hasattr(self.preprocessing, "mean"):
            return str(super().__repr__())
        schemes = getattr(self.model, "qadv_quantization", None) or {"weights": "float", "activations": "float"}
        schemes = {key: value for key, value in schemes.items() if key != "plan"}
        mean, std = (value.tolist() for value in storage.mean_std(self))
        settings = {
            **schemes,
            "input_shape": self.input_shape,
            "nb_classes": self.nb_classes,
            "clip_values": self._limits and tuple(np.asarray(end).tolist() for end in self._limits),
            "preprocessing": (mean, std),
            **recipe["options"],
            **({"probabilities": True} if self.probabilities else {}),
        }
        listed = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        return f"QuantizedClassifier.from_backbone({recipe['name']!r}, {listed})"

    def set_params(self, **kwargs: Any) -> None:
        """Takes parameters by name, as ART does, `clip_values` as the constructor."""
        if "clip_values" in kwargs:
            kwargs["clip_values"] = self._limits = check_clip_values(kwargs["clip_values"], self.input_shape)
        super().set_params(**kwargs)

    def _check_model(self) -> None:
        check_model(self, self._limits)

    def _checked_images(self, x: Any) -> Any:
        """Returns a batch of images, checked; warns of a range that is not the pixels'."""
        if isinstance(x, Tensor):
            low, high = check_tensor(x, self.input_shape)
        else:
            x = check_images(x, self.input_shape, self._limits, strict=False)
            low, high = float(x.min()), float(x.max())
        report_range(self, low, high)
        return x

    def _one_hot(self, y: Any, nb_samples: int) -> Any:
        if isinstance(y, Tensor):
            rows = check_targets(y.detach().cpu().numpy(), nb_samples, self.nb_classes)
            return torch.as_tensor(rows, device=y.device)
        return check_targets(y, nb_samples, self.nb_classes)
