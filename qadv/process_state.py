"""Random states and settings of the process: read, compared and put back, without importing anything for it."""

import os
import pickle
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Setting:
    """Something that the whole process reads, named as a person would look it up.

    `write` sets it, to `None` where it was not there.
    """

    name: str
    write: Callable[[Any], Any] = field(compare=False, repr=False)


Settings = dict[Setting, Any]
_SIGNALS = sorted(signal.valid_signals())
RANDOM_STATE, VARIABLE = "the random state of ", "the environment variable "


def read_settings() -> Settings:
    """Returns the random states and the settings that decide what later code computes, and how.

    Of `random`, numpy, torch, the working directory, the environment and the signal handlers; of numpy and torch only
    where they are imported.
    """
    found = dict(_of_torch()) if "torch" in sys.modules else {}  # first: its random state may be on another device
    if "numpy.random" in sys.modules:
        found |= dict(_of_numpy())
    found[Setting(f"{RANDOM_STATE}random", random.setstate)] = random.getstate()
    with suppress(FileNotFoundError):  # it was deleted
        found[Setting("the working directory", os.chdir)] = os.getcwd()
    for name, value in os.environ.items():
        found[Setting(f"{VARIABLE}{name}", partial(_set_variable, name))] = value
    for number in _SIGNALS if threading.current_thread() is threading.main_thread() else ():
        name = getattr(number, "name", f"signal {number}")
        found[Setting(f"the handler of {name}", partial(_set_handler, number))] = signal.getsignal(number)
    return found


def put_back(before: Settings) -> list[str]:
    """Puts back what is not as it was, and returns the names of that."""
    now = read_settings()
    appeared = {setting: None for setting in now if setting not in before and setting.name.startswith(VARIABLE)}
    changed = []
    for setting, value in {**before, **appeared}.items():
        if now.get(setting) != value:
            setting.write(value)
            changed.append(setting.name)
    return changed


@dataclass(frozen=True)
class _RandomState:
    """A random state, compared by its bytes."""

    content: bytes
    original: Any = field(compare=False)


def _of_numpy() -> Iterator[tuple[Setting, Any]]:
    numpy, numpy_random = sys.modules["numpy"], sys.modules["numpy.random"]
    if not hasattr(numpy_random, "set_bit_generator"):
        return  # it is being imported

    def write(state: _RandomState) -> None:
        generator, values = state.original
        numpy_random.set_bit_generator(generator)
        numpy_random.set_state(values)

    original = numpy_random.get_bit_generator(), numpy_random.get_state(legacy=False)
    content = pickle.dumps((id(original[0]), original[1]))
    yield Setting(f"{RANDOM_STATE}numpy.random", write), _RandomState(content, original)
    yield Setting("numpy.geterr()", lambda value: numpy.seterr(**value)), numpy.geterr()


def _of_torch() -> Iterator[tuple[Setting, Any]]:
    torch = sys.modules["torch"]
    if not hasattr(torch, "default_generator"):
        return  # it is being imported
    for name, write in (
        ("get_default_device", _set_default_device),
        ("get_default_dtype", torch.set_default_dtype),
        ("is_grad_enabled", torch.set_grad_enabled),
        ("is_anomaly_enabled", torch.autograd.set_detect_anomaly),
        ("get_num_threads", torch.set_num_threads),
        ("get_float32_matmul_precision", torch.set_float32_matmul_precision),
    ):
        yield Setting(f"torch.{name}()", write), getattr(torch, name)()
    deterministic = Setting("torch.are_deterministic_algorithms_enabled()", torch.set_deterministic_debug_mode)
    yield deterministic, torch.get_deterministic_debug_mode()
    for name in ("deterministic", "benchmark"):
        setting = Setting(f"torch.backends.cudnn.{name}", partial(setattr, torch.backends.cudnn, name))
        yield setting, getattr(torch.backends.cudnn, name)
    state = torch.get_rng_state()
    content = state.numpy().tobytes()
    yield Setting(f"{RANDOM_STATE}torch", _set_torch_state), _RandomState(content, state)
    if torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        content = b"".join(each.numpy().tobytes() for each in states)
        setting = Setting(f"{RANDOM_STATE}torch.cuda", lambda before: torch.cuda.set_rng_state_all(before.original))
        yield setting, _RandomState(content, states)


def _set_default_device(device: Any) -> None:
    torch = sys.modules["torch"]
    torch.set_default_device(None if device == torch.device("cpu") else device)  # every call pays for one that is set


def _set_torch_state(state: _RandomState) -> None:
    torch = sys.modules["torch"]
    torch.set_rng_state(state.original)
    if not torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(torch.initial_seed())  # `torch.manual_seed` left a seed for its first use


def _set_variable(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    os.environ |= {} if value is None else {name: value}


def _set_handler(number: int, handler: Any) -> None:
    if handler is not None:  # it was not set by Python, which can't set it then
        signal.signal(number, handler)
