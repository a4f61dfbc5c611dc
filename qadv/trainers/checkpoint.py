"""The state of a training run in one safetensors file: network, optimizer, history, and what the run is."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qadv.backbones.float_weights import load_state
from qadv.errors import FileFormatError, InvalidInputError
from qadv.files import read_tensors, write_tensors

FORMAT = "qadv-checkpoint/1"
_MODEL, _OPTIMIZER = "model.", "optimizer."


@dataclass
class TrainingState:
    """What a run consists of; the random state is not in it because each epoch seeds its own."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any = None

    def save(
        self, path: str | os.PathLike[str], run: Mapping[str, Any], epochs_done: int, history: list[dict[str, Any]]
    ) -> None:
        """Writes the state atomically.

        Raises:
            StorageError: the file could not be written; the last one is untouched.
        """
        optimizer = self.optimizer.state_dict()
        tensors: dict[str, Tensor] = {_MODEL + name: tensor for name, tensor in self.model.state_dict().items()}
        numbers: dict[str, dict[str, Any]] = {}
        for index, entries in optimizer["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{_OPTIMIZER}{index}.{key}"] = value
                else:
                    numbers.setdefault(str(index), {})[key] = value
        header = {
            "format": FORMAT,
            "run": dict(run),
            "epochs_done": epochs_done,
            "history": history,
            "optimizer": {"numbers": numbers, "param_groups": optimizer["param_groups"]},
            "scheduler": _pack(self.scheduler.state_dict()) if hasattr(self.scheduler, "state_dict") else None,
        }
        try:
            json.dumps(header)
        except TypeError as error:
            raise InvalidInputError(
                f"the state of {type(self.scheduler).__name__} or {type(self.optimizer).__name__} can't be kept in a "
                f"checkpoint: {error}; train without one, or use lr_schedule"
            ) from error
        write_tensors(path, {name: tensor.cpu() for name, tensor in tensors.items()}, header)

    def resume(self, path: str | os.PathLike[str], run: Mapping[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        """Loads a state, in place, if there is one.

        Returns:
            The number of finished epochs and their history; `(0, [])` without a file.

        Raises:
            FileFormatError: the file is damaged, or of another run; nothing is changed.
        """
        if not Path(path).exists():
            return 0, []
        tensors, header = read_tensors(path)
        if header is None or header.get("format") != FORMAT:
            raise FileFormatError(f"{os.fspath(path)} is no checkpoint of qadv; choose another path for the checkpoint")
        saved = header["run"]
        now = json.loads(json.dumps(run))
        different = [f"{k}: saved {saved.get(k)!r}, now {now[k]!r}" for k in now if saved.get(k) != now[k]]
        if different:
            raise FileFormatError(
                f"{os.fspath(path)} is the checkpoint of another run ({'; '.join(different)}). Delete it to start "
                "anew, choose another path, or restore those settings to resume"
            )
        model = {name.removeprefix(_MODEL): t for name, t in tensors.items() if name.startswith(_MODEL)}
        load_state(self.model, model, os.fspath(path))
        state: dict[int, dict[str, Any]] = {
            int(index): dict(entries) for index, entries in header["optimizer"]["numbers"].items()
        }
        for name, tensor in tensors.items():
            if name.startswith(_OPTIMIZER):
                index, _, key = name.removeprefix(_OPTIMIZER).partition(".")
                state.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": header["optimizer"]["param_groups"]})
        if header["scheduler"] is not None and hasattr(self.scheduler, "load_state_dict"):
            self.scheduler.load_state_dict(_unpack(header["scheduler"]))
        return header["epochs_done"], header["history"]


def _pack(value: Any) -> Any:
    """Writes mappings whose keys are no strings as lists of pairs, which JSON keeps as they are."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _pack(entry) for key, entry in value.items()}
        return {_PAIRS: [[key, _pack(entry)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(entry) for entry in value]
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        if _PAIRS in value:
            return {key: _unpack(entry) for key, entry in value[_PAIRS]}
        return {key: _unpack(entry) for key, entry in value.items()}
    return [_unpack(entry) for entry in value] if isinstance(value, list) else value


_PAIRS = "(pairs)"
