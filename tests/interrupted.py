"""An augmentation with noise, which ends a training in the middle of an epoch without being another function."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch


class StopError(Exception):
    pass


class Left:
    batches = math.inf


def noisy(x):
    Left.batches -= 1
    if Left.batches < 0:
        raise StopError
    return x + 0.01 * torch.randn_like(x) + 0.01 * np.random.rand()


@contextmanager
def stopped_after(batches):
    Left.batches = batches
    try:
        with pytest.raises(StopError):
            yield
    finally:
        Left.batches = math.inf
