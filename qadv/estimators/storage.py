"""How a classifier is saved: its tensors, and a JSON header that says how to build it again."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv import __version__
from qadv.backbones.checkpoints import is_of_torch
from qadv.backbones.create import create_backbone
from qadv.backbones.float_weights import Shape, check_finite, load_state
from qadv.backbones.recipes import recipe_of
from qadv.backbones.standardisation import keep_picture_settings, picture_settings
from qadv.errors import FileFormatError, InvalidInputError, QadvError, some
from qadv.estimators.arguments import check_input_shape
from qadv.estimators.attacked import AttackedNetwork
from qadv.estimators.checks import check_images
from qadv.estimators.door import prepare
from qadv.estimators.ensemble_network import EnsembleNetwork, Standardised
from qadv.estimators.outline import check_outline
from qadv.files import read_tensors, write_tensors
from qadv.frontends.find import file_frontend, files, frontend_of, quantizers
from qadv.frontends.own import OwnFrontend
from qadv.modes import held_network
from qadv.postprocessors.softmax import Softmax
from qadv.quantization import packed
from qadv.quantization.convert import rebuild
from qadv.quantization.form import FormOptions
from qadv.quantization.frozen import is_frozen
from qadv.quantization.scales import check_scales
from qadv.tensor_parts import plain_tensors
from qadv.units import check_clip_values, limits, to_range

if TYPE_CHECKING:
    from qadv.estimators.classifier import QuantizedClassifier

C = TypeVar("C", bound="QuantizedClassifier")

FORMAT = "qadv-classifier/2"
ENSEMBLE_FORMAT = "qadv-ensemble/2"
_FIELDS = {"backbone", "quantization", "loss", "defences", "classifier"}
# where the weights came from: they are in the file now
SOURCES = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
_LARGEST = 2**22  # values of one image
_VALUES_COMPARED = 2**17  # pixels of the images on which a file and its twin are compared


def mean_std(classifier: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the (mean, std) that a classifier was made with; other preprocessing is an `InvalidInputError`."""
    standardisation = classifier.preprocessing
    if not hasattr(standardisation, "mean") and standardisation is not None:
        raise InvalidInputError(
            f"preprocessing by {type(standardisation).__name__} can't be saved; give (mean, std), or make it one of "
            "the preprocessing_defences and pass it to load"
        )
    if standardisation is None:
        return np.zeros((), np.float32), np.ones((), np.float32)
    return np.asarray(standardisation.mean), np.asarray(standardisation.std)


def leaves_pixels(classifier: Any) -> bool:
    """Whether a classifier's standardisation changes nothing."""
    mean, std = mean_std(classifier)
    return not mean.any() and bool((std == 1).all())


def save(classifier: "QuantizedClassifier", path: str | os.PathLike[str]) -> None:
    """See `QuantizedClassifier.save`."""
    if shipped := files(classifier.model):
        raise InvalidInputError(f"the network is the file {', '.join(shipped)}: keep that, and load it again")
    if isinstance(classifier.network, EnsembleNetwork):
        save_ensemble(classifier, path)
    elif is_frozen(classifier.model):
        save_packed(classifier, path)  # a frozen network has no latent weights, only codes
    else:
        tensors = {name: tensor.cpu() for name, tensor in plain_tensors(classifier.model.state_dict()).items()}
        write(classifier, path, FORMAT, tensors, {})


def write(
    classifier: Any, path: str | os.PathLike[str], file_format: str, tensors: dict[str, Tensor], more: dict[str, Any]
) -> None:
    """Writes tensors with the header that says how to build the classifier, and what `more` adds to it.

    Weights that are not finite, and preprocessing that can't be saved, are an `InvalidInputError`.
    """
    model = classifier.model
    check_finite(model)
    mean, std = mean_std(classifier)
    # a backbone that another toolkit has quantized is not made by its name
    others = not isinstance(frontend_of(held_network(model)), OwnFrontend)
    header = {
        "format": file_format,
        "qadv": __version__,
        "backbone": None if others else recipe_of(model),
        "quantization": getattr(model, "qadv_quantization", None),
        "pictures": picture_settings(model),
        "loss": type(classifier.loss).__name__ if _is_plain_loss(classifier.loss) else None,
        "defences": [
            type(defence).__name__
            for defence in [*(classifier.preprocessing_defences or []), *(classifier.postprocessing_defences or [])]
            if not isinstance(defence, Softmax)
        ],
        "classifier": {
            "input_shape": list(classifier.input_shape),
            "nb_classes": classifier.nb_classes,
            "channels_first": classifier.channels_first,
            "clip_values": None if classifier.clip_values is None else list(limits(classifier.clip_values)),
            "preprocessing": [mean.tolist(), std.tolist()],
            "probabilities": classifier.probabilities,
            "form": classifier.model.form_options.to_dict(),
            "surrogate": getattr(classifier.model, "surrogate_network", None) is not None,
        },
        **({"quantizers": _quantizers(model)} if others else {}),
        **more,
    }
    write_tensors(path, tensors, header)


def _quantizers(model: nn.Module) -> list[list[str]]:
    return [[each.layer, each.role, each.scheme] for each in quantizers(model)]


def save_ensemble(classifier: "QuantizedClassifier", path: str | os.PathLike[str]) -> None:
    """Writes an ensemble; a member that is frozen, or has no backbone of that name, is an `InvalidInputError`."""
    network: Any = classifier.model
    members = []
    for index, member in enumerate(network.members):
        inner, pair = member, None
        if isinstance(member, Standardised):
            inner, pair = member.network, [member.mean.tolist(), member.std.tolist()]
        backbone = recipe_of(inner)
        others = not isinstance(frontend_of(inner), OwnFrontend)
        if backbone is None or others or is_frozen(inner):
            reason = "is frozen" if is_frozen(inner) else "was not made from a backbone's name"
            raise InvalidInputError(
                f"member {index} {reason}, so that an ensemble's file can't say how to build it; save the members one "
                "by one, and combine them again with EnsembleClassifier.of([...])"
            )
        quantization = getattr(inner, "qadv_quantization", None)
        members.append({"backbone": backbone, "quantization": quantization, "preprocessing": pair})
    how = {"combine": network.combine, "abstain_below": network.abstain_below}
    tensors = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    write(classifier, path, ENSEMBLE_FORMAT, tensors, {"members": members, "ensemble": how})


def save_packed(classifier: "QuantizedClassifier", path: str | os.PathLike[str]) -> None:
    """Writes the quantized weights as integer codes, see `qadv.export`."""
    if isinstance(classifier.network, EnsembleNetwork):
        raise InvalidInputError(
            "an ensemble is packed member by member: for member in ensemble.members: export(member)"
        )
    others = [each for each in quantizers(classifier.model) if each.origin != OwnFrontend.name]
    if others:
        raise InvalidInputError(
            f"{some(each.layer for each in others)} of the network are quantized by {others[0].origin}, and only what "
            "qadv quantizes is packed: use to='onnx'"
        )
    tensors, layers, schemes = packed.packed_tensors(classifier.model)
    write(classifier, path, packed.FORMAT, tensors, {"layers": layers, "schemes": schemes})


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the header of a saved classifier; a file that is damaged, foreign or not there is an error."""
    return _read(path)[1]


def is_saved(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds a classifier, and not plain weights."""
    return not is_of_torch(path) and "classifier" in (read_tensors(path)[1] or {})


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if file_frontend(path) is not None:
        raise InvalidInputError(f"{os.fspath(path)} is a network by itself and has no header of qadv's")
    tensors, header = read_tensors(path)
    if not isinstance(header, dict) or header.get("format") not in (FORMAT, ENSEMBLE_FORMAT, packed.FORMAT):
        found = f"format {header.get('format')!r}" if isinstance(header, dict) else "no qadv header"
        raise FileFormatError(
            f"{os.fspath(path)}: expected a file that QuantizedClassifier.save wrote ({FORMAT}), found {found}; plain "
            "float weights go in with from_backbone(..., checkpoint_path=...), or NAME --checkpoint FILE"
        )
    if missing := sorted(_FIELDS - header.keys()):
        raise FileFormatError(f"{os.fspath(path)}: expected the key {missing[0]!r} in its header, found none")
    return tensors, header


def from_file(
    cls: type[C],
    path: str | os.PathLike[str],
    input_shape: tuple[int, ...] | None,
    nb_classes: int | None,
    images: Any,
    surrogate: nn.Module | None,
    output: str | None,
    deploy: bool,
    arguments: dict[str, Any],
) -> C:
    """See `QuantizedClassifier.from_file`."""
    if deploy and surrogate is not None:
        raise InvalidInputError("deploy=True takes values and gradients from the file's twin; leave surrogate out")
    if (frontend := file_frontend(path)) is None:
        raise InvalidInputError(
            f"{os.fspath(path)}: no front end that is installed reads such files as networks (.onnx; .tflite with the "
            "plugin qadv-litert)"
        )
    settings, given = {"loss": nn.CrossEntropyLoss(), **arguments}, {}
    if "clip_values" in settings:
        settings["clip_values"] = check_clip_values(settings["clip_values"])
        given["clip_values"] = (0.0, 1.0) if settings["clip_values"] is None else limits(settings["clip_values"])
    input_shape = None if input_shape is None else check_input_shape(input_shape)
    try:
        network: Any = frontend.read(path, input_shape=input_shape, output=output, has_twin=surrogate is None, **given)
    except (QadvError, ImportError):
        raise
    except Exception as error:  # a file may say anything
        why = (str(error).splitlines() or [""])[0]
        raise FileFormatError(f"{os.fspath(path)} is damaged: {type(error).__name__}: {why}") from error
    settings = {"clip_values": network.clip_values, **settings}
    if "preprocessing" not in settings:
        settings["preprocessing"] = network.preprocessing()
    classes = network.nb_classes if nb_classes is None else nb_classes
    classifier = cls(network, input_shape=network.input_shape, nb_classes=classes, surrogate=surrogate, **settings)
    if network.takes_bytes and (settings["clip_values"] is None or not leaves_pixels(classifier)):
        raise InvalidInputError(
            f"{network.file} takes bytes, over which clip_values are spread: give the ends of the pixels as "
            "clip_values, and no preprocessing"
        )
    count = max(2, min(32, _VALUES_COMPARED // prod(network.input_shape)))
    ends = settings["clip_values"] or (0.0, 1.0)
    compared = to_range(np.random.default_rng(0).random((count, *network.input_shape)), ends).astype(np.float32)
    if images is not None:
        images = check_images(images, network.input_shape, classifier.clip_values, "images").astype(np.float32)
        compared = np.concatenate([compared, images])
    form = classifier.model.twin_form
    form.compare(torch.split(torch.as_tensor(prepare(classifier, compared)[0], device=classifier.device), count))
    if not deploy:
        return classifier
    network.simulated = True
    return cls(network, input_shape=network.input_shape, nb_classes=classes, **settings)


def load(cls: type[C], path: str | os.PathLike[str], model: nn.Module | None, arguments: dict[str, Any]) -> C:
    """See `QuantizedClassifier.load`."""
    if file_frontend(path) is not None:
        return cls.from_file(path, **{"surrogate": model, **arguments})
    tensors, header = _read(path)
    with _damage_named(path):
        network = _network(model, header, tensors, path)
        keep_picture_settings(network, header.get("pictures") or {})
        if "form" in header["classifier"] and "fold" not in arguments:
            network = AttackedNetwork(network, FormOptions.from_dict(header["classifier"]["form"]))
        settings = {**_settings(header), **arguments}
        if "input_shape" not in arguments:
            _check_shape(header["classifier"]["input_shape"])
        defences = ", ".join(header["defences"])
    if defences and not {"preprocessing_defences", "postprocessing_defences"} & arguments.keys():
        raise InvalidInputError(
            f"{os.fspath(path)} was saved with the defences {defences}, which are not in the file; pass them as "
            "load(..., preprocessing_defences=, postprocessing_defences=), or None to do without"
        )
    if header["classifier"].get("surrogate", False) and "surrogate" not in arguments:
        raise InvalidInputError(
            f"{os.fspath(path)} was saved with a surrogate for its gradients, which is not in the file; pass it as "
            "load(..., surrogate=network), or None to do without"
        )
    if "loss" not in settings:
        raise InvalidInputError(f"{os.fspath(path)} was saved with a loss of its own; pass it to load(..., loss=...)")
    if not arguments and model is None:
        with _damage_named(path):
            return cls(network, **settings)
    try:
        return cls(network, **settings)
    except TypeError as error:
        raise InvalidInputError(f"load: {error}") from error


@contextmanager
def _damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """A header may say anything: what it leads to is an error of the file."""
    name = os.fspath(path)
    try:
        yield
    except ImportError:
        raise
    except QadvError as error:
        raise error if name in str(error) else type(error)(f"{name}: {error}") from error
    except KeyError as error:
        raise FileFormatError(f"{name}: expected the key {error} in its header, found none") from error
    except Exception as error:
        raise FileFormatError(
            f"{name}: the header is damaged, or of another version of qadv: {type(error).__name__}: {error}"
        ) from error


def _network(
    model: nn.Module | None, header: dict[str, Any], tensors: dict[str, Tensor], path: str | os.PathLike[str]
) -> nn.Module:
    if header["format"] == ENSEMBLE_FORMAT:
        return _ensemble(model, header, tensors, path)
    if model is None:
        shapes: dict[str, Shape] = {name: tensor.shape for name, tensor in tensors.items()}
        if header["format"] == packed.FORMAT:
            shapes |= {f"{name}.weight": tuple(layer["shape"]) for name, layer in header["layers"].items()}
        model = _build_backbone(header["backbone"], shapes, path)
    if header["format"] == packed.FORMAT:
        return packed.frozen_from_packed(model, header, tensors, path)
    if header["quantization"] is not None:
        model = rebuild(model, header["quantization"])
    load_state(model, tensors, os.fspath(path))
    check_scales(model, os.fspath(path))
    for saved, found in zip_longest(header.get("quantizers", ()), _quantizers(model) if "quantizers" in header else ()):
        if saved != found:
            raise FileFormatError(f"expected a model that is quantized as the saved one: {saved}, found {found}")
    return model


def _ensemble(
    model: nn.Module | None, header: dict[str, Any], tensors: dict[str, Tensor], path: str | os.PathLike[str]
) -> EnsembleNetwork:
    if model is not None:
        raise InvalidInputError("the file holds an ensemble that builds its own networks; leave model out")
    members = []
    for index, member in enumerate(header["members"]):
        pair = member["preprocessing"]
        prefix = f"member{index}." + ("" if pair is None else "network.")
        own = {name.removeprefix(prefix): t.shape for name, t in tensors.items() if name.startswith(prefix)}
        network = _build_backbone(member["backbone"], own, path)
        if member["quantization"] is not None:
            network = rebuild(network, member["quantization"])
        members.append(network if pair is None else Standardised(network, *pair))
    ensemble = EnsembleNetwork(members, **header["ensemble"])
    load_state(ensemble, tensors, os.fspath(path))
    check_scales(ensemble, os.fspath(path))
    return ensemble


def _check_shape(shape: Any) -> None:
    """Refuses images that would take a lot of memory when the network is tried on one."""
    if not all(type(size) is int and size > 0 for size in shape) or prod(shape) > _LARGEST:
        raise FileFormatError(
            f"expected an input_shape of at most {_LARGEST:,} values in the header, found {shape}; if it is right, "
            "say so: load(path, input_shape=…)"
        )


def _settings(header: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of the class that are in the file."""
    names = ("input_shape", "nb_classes", "channels_first", "clip_values", "preprocessing")
    values = {name: header["classifier"][name] for name in names}
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    settings["probabilities"] = header["classifier"].get("probabilities", False)
    if not isinstance(settings["probabilities"], bool):
        raise TypeError(f"probabilities: expected true or false, found {settings['probabilities']!r}")
    if header["loss"] is not None:
        loss = getattr(nn, header["loss"])
        if not issubclass(loss, nn.modules.loss._Loss):
            raise TypeError(f"{header['loss']!r} is no loss of torch.nn")
        settings["loss"] = loss()
    return settings


def _build_backbone(
    recipe: dict[str, Any] | None, shapes: Mapping[str, Shape], path: str | os.PathLike[str]
) -> nn.Module:
    if recipe is None:
        raise InvalidInputError(
            "the file holds a network that was not made by name; pass the float one: load(path, model=net), or "
            "PACKAGE.MODULE:FUNCTION --checkpoint FILE, of a function that returns it"
        )
    options = {key: value for key, value in recipe["options"].items() if key not in SOURCES}
    check_outline({**recipe, "options": options}, shapes, os.fspath(path))
    return create_backbone(
        recipe["name"], nb_classes=recipe["nb_classes"], in_channels=recipe["in_channels"], **options
    )


def _is_plain_loss(loss: Any) -> bool:
    """Whether `getattr(torch.nn, name)()` gives the same loss."""
    name = type(loss).__name__
    if getattr(nn, name, None) is not type(loss):
        return False
    plain = type(loss)()
    return (
        not loss.state_dict()
        and repr(plain) == repr(loss)
        and vars(plain).keys() == vars(loss).keys()
        and all(
            getattr(plain, key) == value for key, value in vars(loss).items() if isinstance(value, str | int | float)
        )
    )
