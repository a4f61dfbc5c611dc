"""`open_classifier`: a classifier of a network by name, from a file, or made by a function of the user's own."""

import os
import sys
from pathlib import Path
from typing import Any

from art.estimators.classification import PyTorchClassifier
from torch import nn

from qadv.backbones.checkpoints import check_is_no_program, is_of_torch
from qadv.backbones.create import create_backbone
from qadv.backbones.float_weights import load_float_weights
from qadv.backbones.standardisation import own_standardisation
from qadv.components import TARGET, import_target
from qadv.errors import InvalidInputError, QadvError, UnknownNameError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.forms import outermost
from qadv.estimators.storage import is_saved
from qadv.frontends.find import file_frontend
from qadv.named_options import named_options
from qadv.units import check_clip_values


def open_classifier(
    model: str | os.PathLike[str] | nn.Module,
    checkpoint: str | os.PathLike[str] | None = None,
    nb_classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    **arguments: Any,
) -> Any:
    """Returns the classifier of a network, wherever that comes from: the MODEL of all commands.

    Args:
        model: one of

            - a file: what `QuantizedClassifier.save` or `qadv.export` wrote, or another that `load` reads;
            - the name of a backbone, of qadv, a plugin or timm, with its options where it needs some:
              `"mobilenetv2_050"`, `"mnist-cnn:image_size=8"`, `"timm/vgg16:pretrained=true"`;
            - `"package.module:function"`, which is called and returns a float network or an ART classifier. That runs
              its code, also from the working directory: nothing to take from a stranger;
            - one of the last two with its checkpoint, `"mobilenetv2_050@net.pth"`;
            - a float network itself.
        checkpoint: weights of a network that is no file: a state dict as safetensors, or as `torch.save` wrote it
            (`.pth`), which is read without running code; or what `QuantizedClassifier.save` wrote of this network.
        nb_classes: number of classes; without it what the file or the network says, and 10 for a name.
        input_shape: (channels, height, width); without it what the file or timm's config of the network says.
        arguments: as `QuantizedClassifier` takes them, e.g. `clip_values=(0, 255)`. Without `preprocessing` a network
            of timm's classes gets timm's mean and std.

    Raises:
        InvalidInputError: it is none of these, or something is missing or too much.
        UnknownNameError: no backbone has the name.
        FileFormatError, StorageError: a file is damaged, does not fit, or is not there.
    """
    model, checkpoint = parted(model, checkpoint)
    known = {"nb_classes": nb_classes, "input_shape": input_shape}
    settings = {name: value for name, value in known.items() if value is not None} | arguments
    if isinstance(model, nn.Module):
        name, network = type(model).__name__, model
    elif is_file(model):
        check_is_no_program(model)
        if is_of_torch(model):
            raise InvalidInputError(
                f"{model} holds weights only: name the network, and give the file as its checkpoint, e.g. "
                f"mobilenetv2_050@{model}"
            )
        if checkpoint is not None:
            raise InvalidInputError(f"{os.fspath(model)} has weights of its own: leave out the checkpoint")
        return QuantizedClassifier.load(model, **settings)
    elif TARGET.fullmatch(name := str(model)):
        network = _called(name)
        if isinstance(network, PyTorchClassifier) and checkpoint is None:
            return network
        if not isinstance(network, nn.Module):
            raise InvalidInputError(
                f"{name}: expected a torch.nn.Module{'' if checkpoint else ' or an ART classifier'} from it, got "
                f"{type(network).__name__}"
            )
    else:
        name, options = named_options(name)
        try:
            network = create_backbone(name, nb_classes or 10, (input_shape or (3,))[0], **options)
        except UnknownNameError as error:
            raise UnknownNameError(f"there is no file {name}, and {error}") from error
        settings.setdefault("nb_classes", 10)
    if checkpoint is not None and is_saved(checkpoint):
        return QuantizedClassifier.load(checkpoint, model=network, **settings)
    if checkpoint is not None:
        load_float_weights(network, checkpoint)
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    found = {"nb_classes": getattr(network, "num_classes", None), "input_shape": config.get("input_size")}
    settings = {"loss": nn.CrossEntropyLoss(), **found, **settings}
    for key, option in (("nb_classes", "--nb-classes"), ("input_shape", "--image-size")):
        if settings[key] is None:
            raise InvalidInputError(f"{name}: it does not say its {key}; give it ({key}=, in a command {option})")
    limits = outermost(check_clip_values(settings.get("clip_values", (0.0, 1.0)), tuple(settings["input_shape"])))
    own = own_standardisation(network, settings["input_shape"][0], limits)
    return QuantizedClassifier(network, **{"preprocessing": own or (0.0, 1.0), **settings})


def parted(model: Any, checkpoint: str | os.PathLike[str] | None = None) -> tuple[Any, Any]:
    """Returns a network without its checkpoint, and that, also where both are in one text."""
    if not isinstance(model, str) or "@" not in model or is_file(model):
        return model, checkpoint
    name, _, file = model.partition("@")
    if checkpoint is not None:
        raise InvalidInputError(f"{model} has a checkpoint already: leave out {os.fspath(checkpoint)}")
    return name, file


def is_file(model: str | os.PathLike[str]) -> bool:
    """Whether a network is meant as a file: its suffix is one that is read, or there is such a file."""
    path = Path(model)
    if isinstance(model, str) and "@" in model and not path.is_file():
        return False  # the suffix is that of a checkpoint
    return not isinstance(model, str) or says_what_it_is(path) or path.is_absolute() or path.is_file()


def says_what_it_is(path: Path) -> bool:
    """Whether a file's suffix decides how it is read."""
    return path.suffix == ".safetensors" or is_of_torch(path) or file_frontend(path) is not None


def _called(target: str) -> Any:
    """Imports a function, from the working directory too, and returns what it returns."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        return import_target(target)()
    except QadvError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidInputError(f"{target}: {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = before
