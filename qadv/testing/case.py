"""One component under test: how it is made and used."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from qadv.components import KINDS
from qadv.errors import InvalidInputError
from qadv.plugins import PluginInfo
from qadv.registry import default_registry
from qadv.testing.materials import digits_classifier, few

Arrays = dict[str, Any]


class ConformanceCase(ABC):
    """A component with the options it is tried with; a subclass for each kind says how to use it. Arguments as of
    `conformance`."""

    kind: ClassVar[str] = ""
    of_classifier: ClassVar[bool] = True  # whether it is made with a classifier
    kinds: ClassVar[dict[str, type["ConformanceCase"]]] = {}

    def __init_subclass__(cls) -> None:
        ConformanceCase.kinds[cls.kind] = cls

    def __init__(
        self,
        component: str | Callable[..., Any],
        options: Mapping[str, Any],
        classifier: Callable[[], Any] | None = None,
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        if not isinstance(component, str) and not callable(component):
            raise InvalidInputError(f"component: expected a name, or a class or function, got {component!r}")
        self.component = component
        self.options = dict(options)
        self.own_classifier = classifier
        self.input_shape = input_shape

    @property
    def name(self) -> str:
        return self.component if isinstance(self.component, str) else self.component.__name__

    @property
    def target(self) -> Any:
        """The class or function under test."""
        component = self.component
        return default_registry().load(self.kind, component) if isinstance(component, str) else component

    def classifier(self) -> Any:
        """Returns a new classifier for it to work on."""
        return digits_classifier() if self.own_classifier is None else self.own_classifier()

    def inputs(self) -> Arrays:
        """Returns the arrays that `run` hands to it, new ones."""
        x, y = few()
        return {"x": x, "y": np.eye(10, dtype=np.float32)[y]}

    def make(self, **changes: Any) -> Any:
        """Returns a new component, with options in the place of some of those it is tried with."""
        return self.target(*([self.classifier()] if self.of_classifier else ()), **{**self.options, **changes})

    def run(self, inputs: Arrays | None = None, **changes: Any) -> Any:
        """Makes the component and lets it do its work; returns the result as data that can be compared."""
        return self.use(self.inputs() if inputs is None else inputs, **changes)

    @abstractmethod
    def use(self, inputs: Arrays, **changes: Any) -> Any:
        """See `run`."""

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the class or function, by name."""
        return inspect.signature(self.target).parameters

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


@contextmanager
def registered(case: ConformanceCase) -> Iterator[str]:
    """Gives a class or function that is no installed component a name for as long as the block runs.

    Schemes and backbones are rebuilt by name when a classifier is loaded.
    """
    if isinstance(case.component, str):
        yield case.component
        return
    target = f"{case.component.__module__}:{case.component.__qualname__}"
    if "<locals>" in target:
        raise InvalidInputError(f"{case.name}: expected a class or function of a module, got one made in a function")
    component = KINDS[case.kind](name="under-test", target=target, summary="under test")
    info = PluginInfo("qadv-testing", "under-test", "0", components=[component])
    plugins = default_registry().plugins
    plugins.append(info)
    try:
        yield component.name
    finally:
        plugins.remove(info)
