"""What tells a value from others in another process: networks by their weights, functions by their code."""

import re
from collections.abc import Mapping
from functools import partial
from hashlib import blake2b
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from art.attacks import EvasionAttack
from torch import Tensor, nn

from qadv.estimators.fingerprint import fingerprint, fingerprint_of

_ADDRESS = re.compile(" at 0x[0-9a-f]+")
_MOVING = (  # what a scheduler changes as it goes on
    "last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter", "_get_lr_called_within_step",
    "_is_initial", "T_cur", "T_i",
)  # fmt: skip


def identity(value: Any, within: tuple[int, ...] = ()) -> str:
    """Returns what tells a value from others; networks by their weights, functions by what they do.

    What a function calls in turn is not looked at; `within` are the objects that hold the value.
    """
    if id(value) in within:  # a function that holds itself
        return "…"
    text = partial(identity, within=(*within, id(value)))
    if isinstance(value, Mapping):
        return str({name: text(each) for name, each in value.items()})
    if isinstance(value, list | tuple):
        return str([text(each) for each in value])
    if isinstance(value, set | frozenset):  # their order is another one in each process
        return str(sorted(map(text, value)))
    if isinstance(value, EvasionAttack):
        return f"{type(value).__qualname__} {text({name: getattr(value, name, None) for name in value.attack_params})}"
    if hasattr(value, "model") and hasattr(value, "clip_values"):
        surrogate = getattr(value.model, "surrogate_network", None)
        network = (fingerprint(value), surrogate, getattr(value.model, "form_options", None))
        return f"{text(network)} {value.clip_values} {text(value.preprocessing_operations)}"
    if isinstance(value, nn.Module):
        return fingerprint_of(value)
    if isinstance(value, np.ndarray | Tensor):
        array = value.numpy(force=True) if isinstance(value, Tensor) else value
        return (
            f"{array.dtype} {array.shape} {blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()}"
        )
    if isinstance(value, partial):
        return text((value.func, value.args, value.keywords))
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        return text((value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, held))
    if isinstance(value, MethodType):
        return text((value.__func__, value.__self__))
    if isinstance(value, CodeType):
        return text((value.co_code.hex(), value.co_names, value.co_consts))
    if callable(value) and not isinstance(value, type) and hasattr(value, "__dict__"):
        return f"{type(value).__qualname__} {text(vars(value))}"
    return without_addresses(value)


def told(value: Any) -> Any:
    """Returns plain data as they are; what else there is by name, with eight digits of what tells it from others."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): told(each) for key, each in value.items()}
    parts = value.named_modules() if isinstance(value, nn.Module) else ()
    settings = {name: {k: v for k, v in vars(part).items() if not k.startswith("_")} for name, part in parts}
    return _named(getattr(value, "__qualname__", "") or without_addresses(value), (value, settings))


def told_of_step(step: Any) -> str:
    """Returns the same of an ART preprocessor, by its parameters."""
    return _named(without_addresses(step), {name: getattr(step, name, None) for name in step.params})


def told_of_scheduler(scheduler: Any) -> str:
    """Returns the same of a learning rate scheduler, by what it does not change as it goes on."""
    name = type(scheduler).__name__
    if not hasattr(scheduler, "state_dict"):
        return name
    return _named(name, (_unmoved(scheduler.state_dict()), getattr(scheduler, "lr_lambdas", None)))


def without_addresses(value: Any) -> str:
    """Returns a value's `repr`, which may say where in memory it is."""
    return _ADDRESS.sub("", repr(value))


def _named(name: str, value: Any) -> str:
    return f"{name} [{blake2b(identity(value).encode(), digest_size=4).hexdigest()}]"


def _unmoved(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _unmoved(each) for key, each in state.items() if key not in _MOVING}
    return [_unmoved(each) for each in state] if isinstance(state, list | tuple) else state
