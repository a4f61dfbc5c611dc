"""Saved networks, packed files and checkpoints."""

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

import qadv
from qadv.files import read_tensors, write_tensors
from qadv.trainers.checkpoint import TrainingState

from .damage import damaged_bytes, damaged_data
from .trials import Trial

_RAW = 0.7  # of the trials damage the file as it is; the others write a file anew, with a digest or of format 1
_IMAGES = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)


def networks(folder: Path) -> Trial:
    """Saved classifiers: quantized ones, one with stored scales and ranges, and an ensemble."""
    made = [_classifier("int:4", "relu6:4"), _classifier("pwlq:4", "relu:4", calibration=_IMAGES)]
    made.append(qadv.EnsembleClassifier.of([_classifier("float", "float"), _classifier("bwn", "relu1:1")]))
    for index, classifier in enumerate(made):
        classifier.save(folder / f"{index}.safetensors")
    return _trial(folder, [folder / f"{index}.safetensors" for index in range(len(made))], _logits)


def packed(folder: Path) -> Trial:
    """Packed weights of several schemes."""
    paths = []
    for scheme in ("int:4", "pwlq:3", "twn"):
        paths.append(folder / f"{scheme.replace(':', '')}.packed")
        qadv.export(_classifier(scheme, "relu6:4"), paths[-1])
    return _trial(folder, paths, _logits)


def checkpoints(folder: Path) -> Trial:
    """Interrupted trainings with two optimizers; what is resumed has to be all that was saved."""
    paths, run = [], {"nb_epochs": 5, "optimizer": "", "seed": 0}
    for name in ("adam", "sgd"):
        state = _training(name, seed=1)
        history = [{"epoch": epoch, "loss": 1.0} for epoch in range(3)]
        for _ in history:
            state.model(torch.ones(1, 3)).sum().backward()
            state.optimizer.step()
            state.scheduler.step()
        paths.append(folder / f"{name}.ckpt")
        state.save(paths[-1], run, 3, history)

    def resumed(path: Path) -> Any:
        state = _training("adam" if "adam" in path.name else "sgd", seed=2)
        done, history = state.resume(path, run)
        tensors = [*state.model.state_dict().values()]
        for entries in state.optimizer.state_dict()["state"].values():
            tensors += [value for value in entries.values() if isinstance(value, Tensor)]
        return done, history, state.scheduler.state_dict(), [tensor.tolist() for tensor in tensors]

    return _trial(folder, paths, resumed)


def _classifier(weights: str, activations: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return qadv.QuantizedClassifier.from_backbone(
        "mnist-cnn", weights, activations, input_shape=(1, 8, 8), image_size=8, width=2, **options
    )


def _logits(path: Path) -> Any:
    with path.open("rb") as file:
        ensemble = b"qadv-ensemble" in file.read(4096)
    cls = qadv.EnsembleClassifier if ensemble else qadv.QuantizedClassifier
    return cls.load(path).predict(_IMAGES).tolist()


def _training(name: str, seed: int) -> TrainingState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)).eval()
    made = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
    optimizer = made(model.parameters(), lr=0.1, **({"momentum": 0.9} if name == "sgd" else {}))
    return TrainingState(model, optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4]))


def _trial(folder: Path, paths: list[Path], use: Callable[[Path], Any]) -> Trial:
    expected = [use(path) for path in paths]
    contents = [path.read_bytes() for path in paths]
    read: list[Any] = [read_tensors(path) for path in paths]

    def trial(draws: random.Random) -> str:
        index = draws.randrange(len(paths))
        target = folder / f"damaged-{paths[index].name}"
        if draws.random() < _RAW:
            damaged = damaged_bytes(contents[index], draws)
            if damaged == contents[index]:
                return "same"
            target.write_bytes(damaged)
            return "same" if _equal(use(target), expected[index]) else "taken wrong"
        tensors, header = dict(read[index][0]), copy.deepcopy(read[index][1])
        changes_tensors, old = draws.random() < 0.5, draws.random() < 0.3
        if changes_tensors:
            _damage_tensor(tensors, draws)
            old = old and "checkpoint" not in header["format"]  # the first had no list of the optimizer's tensors
        else:
            header = damaged_data(header, draws)
        _write(target, tensors, header, old)
        if _equal(use(target), expected[index]):
            return "same"
        return "taken wrong" if changes_tensors else "as written"

    return trial


def _equal(found: Any, expected: Any) -> bool:
    return json.dumps(found) == json.dumps(expected)


def _damage_tensor(tensors: dict[str, Tensor], draws: random.Random) -> None:
    """Changes a tensor so that it can't be what a file of qadv holds."""
    names = sorted(tensors)
    scales = [name for name in names if name.endswith(("scale", "limit"))]
    name = draws.choice(names if draws.random() < 0.7 or not scales else scales)
    tensor = tensors[name]
    way = draws.randrange(6)
    if way == 0:
        del tensors[name]
    elif way == 1:
        tensors[f"{name}{draws.choice(['.', '0', '.weight'])}"] = tensor.clone()
    elif way == 2:
        tensors[name] = tensor.new_zeros(draws.choice([(1,), (0,), (3, 7), (*tensor.shape, 2), (2, 1, *tensor.shape)]))
    elif way == 3 or not tensor.is_floating_point():
        other = [torch.int8, torch.bool, torch.int16, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2]
        tensors[name] = tensor.to(draws.choice(other))
    elif way == 4 or name not in scales:
        tensors[name] = tensor.clone()
        tensors[name].view(-1)[draws.randrange(tensor.numel())] = draws.choice([math.nan, math.inf, -math.inf])
    else:
        tensors[name] = tensor.clone()
        tensors[name].view(-1)[0] *= -1


def _write(path: Path, tensors: dict[str, Tensor], header: Any, old: bool) -> None:
    if not old and isinstance(header, dict):
        write_tensors(path, tensors, header)
        return
    if isinstance(header, dict) and isinstance(header.get("format"), str):
        header["format"] = header["format"].replace("/2", "/1")
    path.write_bytes(
        save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"qadv": json.dumps(header)})
    )
