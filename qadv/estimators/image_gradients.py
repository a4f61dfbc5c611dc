"""Gradients of images only: an attack's backward pass leaves the network's parameters out."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn


def leave_parameters_out(model: nn.Module) -> None:
    """In evaluation mode, when images ask for their gradient, no parameter of `model` gets one.

    This stays with the module, so that a classifier which ART rebuilds from it has it too. Training is as before, also
    in evaluation mode, as long as the images themselves ask for no gradient.
    """
    # ART calls the parts of an `nn.Sequential` one by one
    parts = list(model.children()) if isinstance(model, nn.Sequential) else [model]
    if any(isinstance(getattr(hook, "__self__", None), _Part) for hook in parts[0]._forward_pre_hooks.values()):
        return
    previous = None
    for part in parts:
        previous = _Part(part, previous)


def remove_hooks(model: nn.Module) -> None:
    """Undoes `leave_parameters_out`, in a copy that is to become part of another network."""
    for part in [model, *model.children()]:
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(getattr(hook, "__self__", None), _Part):
                    del hooks[key]
                    part._forward_hooks_always_called.pop(key, None)


class _Part:
    """Hooks round a part of a network.

    What enters a part comes from the images if it is the images, or what the part before has just put out. (In training
    in evaluation mode hidden activations have gradients too, but because of the parameters.)
    """

    def __init__(self, module: nn.Module, previous: "_Part | None") -> None:
        self.previous = previous
        self.is_last = True
        if previous is not None:
            previous.is_last = False
        self.parameters = list(module.parameters())
        self.held: list[nn.Parameter] = []
        self.from_images = False
        self.output: Any = None
        module.register_forward_pre_hook(self.start)
        module.register_forward_hook(self.stop, always_call=True)

    def start(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.from_images = (
            not module.training
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and len(inputs) == 1
            and isinstance(inputs[0], Tensor)
            and inputs[0].requires_grad
            and (self.previous is None or self.previous.gave(inputs[0]))
        )
        if self.from_images:
            self.held = [parameter for parameter in self.parameters if parameter.requires_grad]
            for parameter in self.held:
                parameter.requires_grad_(False)

    def stop(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for parameter in self.held:
            parameter.requires_grad_(True)
        self.held = []
        handed_on = self.from_images and not self.is_last and isinstance(output, Tensor)
        self.output = weakref.ref(output) if handed_on else None

    def gave(self, x: Tensor) -> bool:
        """Whether `x` is what this part has put out, from images."""
        output, self.output = self.output, None
        return output is not None and output() is x
