"""One image through a network, before a classifier of it is used."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from qadv.errors import InvalidInputError, QadvError, UnsupportedModelError, some
from qadv.estimators.answers import errors
from qadv.estimators.batches import BOUND, answers_alone
from qadv.estimators.forms import outermost
from qadv.estimators.logits import advice
from qadv.modes import evaluation_mode, held_network
from qadv.quantization.probe import report_bypasses, report_mixing
from qadv.random_states import global_states_kept
from qadv.tensor_parts import plain_tensors


def check_model(classifier: Any, limits: Any) -> None:
    """Runs one grey image through: a wrong shape or class count shows now, and not in the middle of an attack."""
    model, network = classifier.model, held_network(classifier.model)
    low, high = (0.0, 1.0) if limits is None else limits
    grey = np.broadcast_to((low + high) / 2, (1, *classifier.input_shape)).astype(np.float32)
    image = torch.from_numpy(grey).to(classifier.device)
    before = _state(network)
    try:
        with torch.no_grad(), evaluation_mode(model):
            with report_bypasses(model):
                output = model(image)
            report_mixing(model, image)
    except QadvError:
        raise
    except Exception as error:
        raise InvalidInputError(
            f"the model fails on one image of input_shape {classifier.input_shape}: {type(error).__name__}: {error}"
            f"{advice(network, error)}"
        ) from error
    after = _state(network)
    if changed := [name for name, then in before.items() if name not in after or not torch.equal(then, after[name])]:
        raise UnsupportedModelError(
            f"the network changes when it is asked in evaluation mode: {some(changed)}; so each query of an attack "
            "would meet another network. Run one image through it first, if it only sets itself up then, and "
            "switch off what observes"
        )
    if not isinstance(output, Tensor) or tuple(output.shape) != (1, classifier.nb_classes):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InvalidInputError(
            f"the model should give logits of shape (1, {classifier.nb_classes}), nb_classes; got {got}"
        )
    _report_batch_statistics(classifier, network, image, output)


def _report_batch_statistics(classifier: Any, network: nn.Module, image: Tensor, alone: Tensor) -> None:
    """Warns where an image, (1, …), of these logits alone is answered otherwise with others beside it."""
    norms = nn.modules.batchnorm._BatchNorm
    found = [n for n, each in network.named_modules() if isinstance(each, norms) and each.running_mean is None]
    if found:
        why = f"{some(found)}: BatchNorm without running statistics takes those of each batch"
        what = "Make it with track_running_stats=True, and run training images through it in training mode"
    elif _is_alike(classifier, image, alone) or answers_alone(classifier):
        return
    else:
        why = "the network computes with something of the whole batch, as a mean over it, or a scale found for it"
        what = "Let it take that of each image, or of training images"
    warnings.warn(
        f"{why}, so an image's logits, and every figure, depend on the images beside it. {what}", stacklevel=4
    )


def _is_alike(classifier: Any, image: Tensor, alone: Tensor) -> bool:
    """Whether the image has about these logits beside a white one, too; a network of single images is asked no more."""
    _, high = outermost(classifier.clip_values) or (0.0, 1.0)
    pair = torch.cat([image, torch.full_like(image, high)])
    try:
        with torch.no_grad(), evaluation_mode(classifier.model), global_states_kept():
            beside = classifier.model(pair)[:1]
    except Exception:  # the network's own code may say anything
        return True
    return bool((errors(alone, beside) <= BOUND).all())


def _state(network: nn.Module) -> dict[str, Tensor]:
    """Returns copies of all parameters and buffers by name."""
    tensors = (*network.named_parameters(), *network.named_buffers())
    known = plain_tensors({name: tensor for name, tensor in tensors if not is_lazy(tensor)})
    return {name: tensor.detach().clone() for name, tensor in known.items()}
