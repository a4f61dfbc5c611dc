"""The state of a training run in one safetensors file: network, optimizer, history, and what the run is."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qadv.backbones.float_weights import check_state, load_state
from qadv.errors import FileFormatError, InvalidInputError
from qadv.files import read_tensors, write_tensors
from qadv.tensor_parts import plain_tensors

FORMAT = "qadv-checkpoint/2"
_MODEL, _OPTIMIZER, _BEST, _GENERATOR = "model.", "optimizer.", "best.", "generator."


@dataclass
class TrainingState:
    """What a run consists of; the global random states are not in it because each epoch seeds its own.

    Attributes:
        generators: those that a loader of the user's draws from, whose states go on.
        best: the model's state after its best epoch, where that is to be kept.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any = None
    generators: Sequence[torch.Generator] = ()
    best: dict[str, Tensor] = field(default_factory=dict)

    def keep(self) -> None:
        """Makes the model's state the best one."""
        self.best = {name: tensor.detach().clone() for name, tensor in plain_tensors(self.model.state_dict()).items()}

    def take_best(self) -> None:
        """Puts the model in its best state, if one was kept."""
        if self.best:
            load_state(self.model, self.best, "the best epoch's state")

    def save(
        self, path: str | os.PathLike[str], run: Mapping[str, Any], epochs_done: int, history: list[dict[str, Any]]
    ) -> None:
        """Writes the state atomically: where that fails, the last one is untouched."""
        optimizer = self.optimizer.state_dict()
        tensors: dict[str, Tensor] = {_MODEL + name: tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {_BEST + name: tensor for name, tensor in self.best.items()}
        tensors |= {f"{_GENERATOR}{index}": each.get_state() for index, each in enumerate(self.generators)}
        numbers: dict[str, dict[str, Any]] = {}
        for index, entries in optimizer["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{_OPTIMIZER}{index}.{key}"] = value
                else:
                    numbers.setdefault(str(index), {})[key] = value
        groups, described = optimizer["param_groups"], _described(tensors)
        header = {
            "format": FORMAT,
            "run": dict(run),
            "epochs_done": epochs_done,
            "history": history,
            "optimizer": {"numbers": numbers, "param_groups": groups, "tensors": described},
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
        """Loads a state, in place, if there is one; returns the number of finished epochs and their history.

        A run may go on for more epochs than it was begun with. A file that is damaged, or of another run, is a
        `FileFormatError`: nothing is trained with what it holds.
        """
        if not Path(path).exists():
            return 0, []
        tensors, header = read_tensors(path)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise FileFormatError(f"{os.fspath(path)} is not a checkpoint of qadv; choose another path for it")
        model, best = (
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            for prefix in (_MODEL, _BEST)
        )
        try:
            saved, now = header["run"], json.loads(json.dumps(run))
            if "validation" not in saved:  # an older one's
                now.pop("validation", None)
            different = [f"{k}: saved {saved.get(k)!r}, now {v!r}" for k, v in now.items() if saved.get(k) != v]
            extended = saved.keys() == now.keys() and saved.get("nb_epochs", 0) < now.get("nb_epochs", 0)
            if len(different) > extended:
                raise FileFormatError(
                    f"{os.fspath(path)} is the checkpoint of another run ({'; '.join(different)}). Delete it to start "
                    "anew, choose another path, or restore those settings to resume"
                )
            epochs_done, history = header["epochs_done"], header["history"]
            epochs, most = [entry["epoch"] for entry in history], run.get("nb_epochs", epochs_done)
            if type(epochs_done) is not int or epochs != list(range(epochs_done)) or epochs_done > most:
                raise ValueError(f"epochs_done is {epochs_done!r}, and the history has the epochs {epochs}")
            state = self._optimizer_state(header["optimizer"], tensors)
            scheduler: Any = _unpack(header["scheduler"]) if hasattr(self.scheduler, "load_state_dict") else None
            own = {} if scheduler is None else self.scheduler.state_dict()
            if isinstance(own, dict) and (lacking := own.keys() - (scheduler or {}).keys()):
                raise ValueError(f"the scheduler's state lacks {', '.join(sorted(lacking))}")
            if bool(best) != ("early_stop" in run and epochs_done > 0):
                raise ValueError("it should have a best epoch's state, and has none, or the other way round")
            if best:
                check_state(self.model, best, os.fspath(path))
            load_state(self.model, model, os.fspath(path))
            self.optimizer.load_state_dict(state)
            if scheduler is not None:
                self.scheduler.load_state_dict(scheduler)
            self.best = best
            for index, generator in enumerate(self.generators):
                generator.set_state(tensors[f"{_GENERATOR}{index}"])
        except FileFormatError:
            raise
        except Exception as error:  # a header may say anything
            raise FileFormatError(
                f"{os.fspath(path)} is damaged ({type(error).__name__}: {error}); delete it to start anew"
            ) from error
        return epochs_done, history

    def _optimizer_state(self, saved: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns a state dict for the optimizer after comparing it with the optimizer's parameters."""
        own = self.optimizer.state_dict()["param_groups"]
        groups = saved["param_groups"]
        if [(g.keys(), g["params"]) for g in groups] != [(json.loads(json.dumps(g)).keys(), g["params"]) for g in own]:
            raise ValueError("the optimizer has other groups of parameters, or other settings")
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Any]] = {int(i): dict(entries) for i, entries in saved["numbers"].items()}
        for name, tensor in tensors.items():
            if name.startswith(_OPTIMIZER):
                index, _, key = name.removeprefix(_OPTIMIZER).partition(".")
                shape = parameters[int(index)].shape
                tensor.expand(shape)  # raises where it does not fit
                if not bool(tensor.double().isfinite().all()):
                    raise ValueError(f"{name} has values that are NaN or infinite")
                state.setdefault(int(index), {})[key] = tensor
        described = _described(tensors)
        if saved.get("tensors", described) != described or len({frozenset(entries) for entries in state.values()}) > 1:
            raise ValueError("the optimizer's tensors are not those that were saved")
        if not state.keys() <= set(range(len(parameters))):
            raise ValueError(f"it has the states of {len(state)} parameters, the optimizer has {len(parameters)}")
        return {"state": state, "param_groups": groups}


def _described(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Returns type and shape of the optimizer's tensors by name."""
    own = (name for name in sorted(tensors) if name.startswith(_OPTIMIZER))
    return {name: [str(tensors[name].dtype), list(tensors[name].shape)] for name in own}


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
