"""Hooks on modules' inputs and outputs for the time of a block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def recording(
    modules: Mapping[str, nn.Module],
    entering: Callable[[str, Any], Any] | None = None,
    leaving: Callable[[str, Any, Any], Any] | None = None,
) -> Iterator[None]:
    """Calls functions with the inputs and outputs of modules, by name, while the block runs.

    `entering` is called before a module runs, with its name and the tuple of its inputs, `leaving` after it, with its
    name, inputs and output. What they return, if not `None`, replaces inputs or output.
    """
    with ExitStack() as hooks:
        for name, module in modules.items():
            if entering is not None:
                before = module.register_forward_pre_hook(lambda _, inputs, name=name: entering(name, inputs))
                hooks.callback(before.remove)
            if leaving is not None:
                after = module.register_forward_hook(lambda _, inputs, output, name=name: leaving(name, inputs, output))
                hooks.callback(after.remove)
        yield
