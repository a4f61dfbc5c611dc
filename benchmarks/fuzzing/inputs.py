"""Images, labels and ranges of pixels in forms that people have them in, sound and not."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import qadv
from qadv.errors import InvalidInputError

from .trials import Trial

_SHAPE, _CLASSES = (3, 4, 5), 4
_IMAGES = np.random.default_rng(0).random((6, *_SHAPE), dtype=np.float32)
_LABELS = np.array([0, 1, 2, 3, 0, 1])
_FLOATS = ("f2", "<f4", ">f4", "<f8", ">f8", "longdouble")
_NUMBERS = ("i1", "u1", "<i2", ">i4", "u8", "<f4", ">f8", "f2", "longdouble", "?")
_METHODS = ("predict", "loss_gradient", "class_gradient", "compute_loss")


def inputs(folder: Path) -> Trial:
    """Forms that say the same give the same, and what says nothing is refused."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 8), nn.ReLU(), nn.Linear(8, _CLASSES)).eval()
    half = _IMAGES.astype("f2").astype("f4")  # what every type of number holds
    classifier = qadv.QuantizedClassifier(model, nn.CrossEntropyLoss(), _SHAPE, _CLASSES, device_type="cpu")
    expected = {method: _answer(classifier, method, half, _LABELS) for method in _METHODS}

    def trial(draws: random.Random) -> str:
        method = draws.choice(_METHODS)
        x, y = _form(half.astype(draws.choice(_FLOATS)), draws), _form(_labels(draws), draws)
        asked = classifier
        if draws.random() < 0.3:
            asked = qadv.QuantizedClassifier(
                model, nn.CrossEntropyLoss(), _SHAPE, _CLASSES, device_type="cpu", clip_values=_range(draws)
            )
        is_sound = draws.random() < 0.5
        if not is_sound and (method == "predict" or draws.random() < 0.5):
            x = _spoilt_images(x, draws)
        elif not is_sound:
            y = _spoilt_labels(draws)
        try:
            found = _answer(asked, method, x, y)
        except InvalidInputError:
            if is_sound:
                raise AssertionError("what is sound was refused") from None
            raise
        return "same" if is_sound and np.allclose(found, expected[method], 1e-4, 1e-6) else "taken wrong"

    return trial


def _answer(classifier: Any, method: str, x: Any, y: Any) -> Any:
    return getattr(classifier, method)(x) if method == "predict" else getattr(classifier, method)(x, y)


def _labels(draws: random.Random) -> NDArray[Any]:
    dtype = draws.choice(_NUMBERS)
    if dtype == "?" or draws.random() < 0.5:
        return np.eye(_CLASSES)[_LABELS].astype(dtype)
    return _LABELS.astype(dtype) if draws.random() < 0.7 else _LABELS.astype(dtype)[:, None]


def _form(values: NDArray[Any], draws: random.Random) -> Any:
    """Returns the same values, otherwise in memory."""
    way = draws.randrange(7)
    if way == 0:
        return values[..., ::-1].copy()[..., ::-1]
    if way == 1:
        return values[::-1].copy()[::-1]
    if way == 2:
        return np.asfortranarray(values)
    if way == 3:
        return np.repeat(values, 2, axis=0)[::2]
    if way == 4:
        return values.astype(np.float64).tolist() if values.dtype == np.longdouble else values.tolist()
    if way == 5:
        return list(values)
    return values


def _range(draws: random.Random) -> Any:
    """Returns pixels' ranges that hold all images."""
    shape = draws.choice([(), (1,), (3,), (3, 1, 1), (1, 4, 1), _SHAPE])
    low, high = np.zeros(shape), np.ones(shape)
    if draws.random() < 0.5:
        low.flat[0], high.flat[-1] = -0.5, 1.5
    return (low.tolist(), high.tolist()) if draws.random() < 0.3 else (low, high)


def _spoilt_images(x: Any, draws: random.Random) -> Any:
    x = np.asarray(x).copy()
    way = draws.randrange(8)
    if way == 0:
        x.reshape(-1)[draws.randrange(x.size)] = draws.choice([np.nan, np.inf, -np.inf])
        return x
    if way == 1:
        return x[:, : draws.randrange(1, 3)]
    if way == 2:
        return x[draws.randrange(len(x))]
    if way == 3:
        return (255 * x).astype(draws.choice(["u1", "i2", "i8"]))
    if way == 4:
        return x.astype(np.float64) * 255
    if way == 5:
        return x.astype(draws.choice(["O", "U8", "c8", "?"]))
    if way == 6:
        return np.ma.masked_less(x, 0.5)
    return draws.choice([x[:0], x.transpose(0, 2, 3, 1), x[..., None], x.reshape(len(x), -1)])


def _spoilt_labels(draws: random.Random) -> Any:
    bad: list[Any] = [
        _LABELS[:-1],
        np.append(_LABELS, 0),
        _LABELS + 1,
        _LABELS - 1,
        _LABELS + 0.5,
        _LABELS.astype(str),
        _LABELS.astype(object) * 1j,
        _LABELS > 1,
        np.full(6, np.nan),
        np.full(6, np.inf),
        np.eye(_CLASSES)[_LABELS][:, :-1],
        np.eye(_CLASSES)[_LABELS] * draws.choice([-1, 0, 2, 1e30, np.nan, np.inf]),
        np.eye(_CLASSES)[_LABELS] - 1,
        np.eye(_CLASSES)[_LABELS][:-1],
        np.zeros((6, 2, 2)),
        [0, 1, [2], 3, 0, 1],
        "labels",
        np.full(6, 2**63, dtype=np.uint64),
        _LABELS.astype("M8[s]"),
    ]
    return draws.choice(bad)
