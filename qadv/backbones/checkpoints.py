"""Reads the weights of a float network: a safetensors file, or a state dict that `torch.save` wrote."""

import argparse
import os
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from qadv.errors import FileFormatError
from qadv.files import check_is_file, read_tensors
from qadv.versions import reads_old_files_safely, safe_globals

_OF_TORCH = (".pth", ".pt", ".tar", ".ckpt", ".bin")
_AVERAGED = ("state_dict_ema", "model_ema", "ema")  # as timm's and torchvision's trainings call them
_HOLD_IT = ("state_dict", "model", "model_state_dict", "net", *_AVERAGED)  # where trainings put the state dict


def read_state(path: str | os.PathLike[str], names: Collection[str]) -> dict[str, Tensor]:
    """Returns the tensors of a network whose tensors have these names.

    What stands before all names of the file and not before all of the network's, as "module.", comes off.

    Raises:
        FileFormatError: damaged, no state dict, or more than tensors and plain data, which is never unpickled.
        StorageError: there is no such file, or it can't be read.
    """
    tensors = _state_dict(path) if is_of_torch(path) else read_tensors(path)[0]
    while (prefix := _common(tensors)) and prefix != _common(names):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def is_of_torch(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that `torch.save` wrote, going by its name."""
    return os.fspath(path).lower().endswith(_OF_TORCH)


def check_is_no_program(path: str | os.PathLike[str]) -> None:
    """Refuses a file of TorchScript or of `torch.export`, which is code and not weights."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = {name.partition("/")[2] for name in archive.namelist()}
    programs = {"constants.pkl": "a TorchScript file", "models/model.json": "a torch.export program"}
    if kind := next((programs[part] for part in programs if part in parts), None):
        raise FileFormatError(
            f"{os.fspath(path)} is {kind}, whose code would run; give an ONNX file (torch.onnx.export), or the network "
            "by name and its state dict"
        )


def _state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    check_is_file(path)
    check_is_no_program(path)
    if not reads_old_files_safely() and not zipfile.is_zipfile(path):
        raise FileFormatError(
            f"{os.fspath(path)} is damaged, or of a torch before 1.6, whose files need torch 2.6 to be read safely; "
            "save its state dict anew"
        )
    try:
        with safe_globals([argparse.Namespace]):  # the settings that timm's training keeps beside the weights
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler says
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        raise FileFormatError(
            f"{os.fspath(path)} holds {foreign[1]}, whose code would run: save torch.save(network.state_dict(), path)"
            if foreign
            else f"{os.fspath(path)} is damaged, or no file of torch.save ({type(error).__name__})"
        ) from error
    while isinstance(found, Mapping) and (key := next((key for key in _HOLD_IT if key in found), None)) is not None:
        if not isinstance(found[key], Mapping):
            break
        if key not in _AVERAGED and (other := next((each for each in _AVERAGED if each in found), None)):
            warnings.warn(
                f"{os.fspath(path)}: {key} is taken, and not the averaged weights in {other}; to have these, save them "
                "as a file of their own",
                stacklevel=5,
            )
        found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(each, Tensor) for each in found.values()) or not found:
        what = (
            f"the keys {', '.join(map(str, list(found)[:5]))}" if isinstance(found, Mapping) else type(found).__name__
        )
        raise FileFormatError(
            f"{os.fspath(path)}: expected a state dict, tensors by name, itself or under one of "
            f"{', '.join(_HOLD_IT)}; found {what or 'nothing'}"
        )
    return {str(name): tensor for name, tensor in found.items() if name != "n_averaged"}  # torch's AveragedModel


def _common(names: Collection[str]) -> str:
    """Returns the first part that all names have, with its dot; `""` where there is none."""
    firsts = {name.partition(".")[0] for name in names if "." in name}
    return f"{firsts.pop()}." if len(firsts) == 1 and all("." in name for name in names) else ""
