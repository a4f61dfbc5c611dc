"""Sets a network's mode, and other settings, for the time of a block; lists its layers."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar

import torch
from torch import nn
from torch.fx import GraphModule

from qadv.errors import InvalidInputError, some
from qadv.network_lock import lock_of

T = TypeVar("T")


def held_network(model: nn.Module) -> nn.Module:
    """Returns the user's network that a classifier's `model` holds, and any other module as it is."""
    return getattr(model, "held_network", model)


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns a network's convolution and linear layers by name, in order of registration."""
    layers = nn.modules.conv._ConvNd | nn.Linear
    return {name: module for name, module in model.named_modules() if isinstance(module, layers)}


_PLAIN = ("torch.nn.modules.", "torch.ao.nn.", "qadv.")  # where `train` changes nothing that is in that mode


class Modes:
    """Sees quickly whether all of a network's modules are in one mode, as ART asks for one at every query."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._parts: list[Any] | None = None

    def are(self, training: bool) -> bool:
        """Whether `network.train(training)` would change nothing."""
        if self._parts is None or self._parts != self._parts_now():
            modules = [held_network(module) for module in self._network.modules()]
            # Brevitas has hundreds of small modules, which get no parts
            open_ones = [m for m in modules if m._modules or not type(m).__module__.startswith("brevitas.")]
            compiled = not all(isinstance(module._modules, dict) for module in modules)
            trains = [getattr(type(module).train, "__module__", "") for module in modules]
            own = all("training" in vars(module) for module in modules)  # torch.compile's have that of what they hold
            sound = not compiled and own and all(each.startswith(_PLAIN) for each in trains)
            self._children = [module._modules for module in open_ones] if sound else []
            self._attributes = [vars(module) for module in modules] if sound else [{"training": None}]
            self._parts = self._parts_now()
        return list(map(itemgetter("training"), self._attributes)).count(training) == len(self._attributes)

    def _parts_now(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self._children)))


class Kinds:
    """Sees quickly whether modules or parameters of other classes are in a network than before.

    Brevitas's layers count as one module each: their hundreds of parts are followed by the form.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._look()

    def changed(self) -> bool:
        """Whether there are others than when this was asked last."""
        if self._parts == self._parts_now():
            return False
        before = self._kinds
        self._look()
        return before != self._kinds

    def _look(self) -> None:
        modules = list(_layers(self._network))
        self._children = [m._modules for m in modules if m._modules and not _is_of_brevitas(m)]
        self._parameters = [module._parameters for module in modules if module._parameters]
        self._parts = self._parts_now()
        self._kinds = [*map(type, modules), *(part for part in self._parts if isinstance(part, type | int))]

    def _parts_now(self) -> list[Any]:
        parameters = chain.from_iterable(each.values() for each in self._parameters)
        return [*chain.from_iterable(each.values() for each in self._children), *map(_kind, parameters)]


def _kind(parameter: nn.Parameter | None) -> Any:
    """Returns a class; for a toolkit's own, which may stand for several ways of computing, which object it is."""
    kind = type(parameter)
    return kind if kind is nn.Parameter or parameter is None else id(parameter)


def _is_of_brevitas(module: nn.Module) -> bool:
    return type(module).__module__.startswith("brevitas.")


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    module = held_network(module)
    yield module
    if not _is_of_brevitas(module):
        for child in module.children():
            yield from _layers(child)


def set_mode(network: nn.Module, training: bool) -> None:
    """Puts a network in training or evaluation mode, but an exported graph, which has one of its own."""
    with suppress(NotImplementedError):
        network.train(training)


def is_exported(network: nn.Module) -> bool:
    """Whether a network is a graph of `torch.export`, which refuses to change its mode."""
    return isinstance(network, GraphModule) and "train" in vars(network)


@contextmanager
def in_mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Locks a network for this thread, in training or evaluation mode.

    It stays in that mode, as ART's classifiers leave it, unless another thread trains or evaluates it.
    """
    lock = lock_of(held_network(network))
    with lock:
        others = lock.is_trained_by_another() or lock.is_evaluated_by_another()
        before = {module: module.training for module in network.modules()} if others else {}
        set_mode(network, training)
        try:
            yield
        finally:
            for module, mode in before.items():
                module.training = mode


def one_by_one(network: nn.Module, batches: Iterable[T]) -> Iterator[T]:
    """Yields the batches of a training, with the network locked and in training mode for each."""
    for batch in batches:
        with in_mode(network, training=True):
            yield batch


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Puts a network in evaluation mode, and every module back into its own mode afterwards (frozen BatchNorms too).

    While several threads do so, it is the last that puts back.
    """
    lock, current = lock_of(held_network(network)), threading.current_thread()
    with lock:
        lock.evaluated_by.append(current)
        modes = {module: module.training for module in network.modules()}
        set_mode(network, training=False)
    try:
        yield
    finally:
        with lock:
            lock.evaluated_by.remove(current)
            if lock.is_evaluated_by_another():
                lock.left_behind.update(module for module, training in modes.items() if training)
            else:
                for module, training in modes.items():
                    module.training = training or module in lock.left_behind
                if not lock.evaluated_by:
                    for module in lock.left_behind:
                        module.training = True
                    lock.left_behind.clear()


@contextmanager
def buffers_kept(network: nn.Module) -> Iterator[None]:
    """Puts a network's buffers back after the block, as counters of an exported graph."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            if not torch.equal(buffer, value):  # one whose elements share their memory can't be written to
                buffer.copy_(value)


@contextmanager
def kept(thing: Any, attribute: str) -> Iterator[None]:
    """Restores an attribute after the block, whatever it was set to."""
    value = getattr(thing, attribute)
    try:
        yield
    finally:
        setattr(thing, attribute, value)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Runs the block with a number of torch threads; `None` leaves it as it is."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def class_names(model: nn.Module) -> tuple[str, ...]:
    """Returns the names of a network's classes in their order, as its file keeps them; none where nothing said them."""
    config: Any = getattr(model, "pretrained_cfg", None)
    return tuple(config.get("classes") or ()) if isinstance(config, dict) else ()


def check_same_classes(name: str, model: nn.Module, other: nn.Module) -> None:
    """Refuses a second network, `name`, whose classes are called otherwise, or in another order, not by numbers."""
    known, own = class_names(model), class_names(other)
    if known and own and known != own and not {known, own} & {tuple(map(str, range(len(known))))}:
        raise InvalidInputError(
            f"{name}: its classes are {some(own, 10)}, and the first network's {some(known, 10)}, so that labels would "
            "stand for other classes"
        )


def nb_labels(classifier: Any) -> int:
    """Returns the number of classes that labels stand for: an ensemble that abstains has one output more."""
    return int(classifier.nb_classes) - (getattr(held_network(classifier.model), "abstain_below", None) is not None)
