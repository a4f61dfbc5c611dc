"""Data-parallel training: each process computes its part of every batch, and all end with the result of one.

    torchrun --nproc-per-node 2 train.py

Every process runs the same script with the same data. Shuffling, augmentation and random numbers are those of a single
process, made for the whole batch; gradients and BatchNorm's statistics are of the whole batch, too.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from qadv.errors import InvalidInputError, UnsupportedModelError


@dataclass(frozen=True)
class BatchPart:
    """Images `start` to `stop` of a batch of `size`; the default stands for a whole batch of any size."""

    start: int = 0
    stop: int | None = None
    size: int | None = None

    def total(self, own: int) -> int:
        """Returns the size of the whole batch, given the number of images that this process has."""
        return own if self.size is None else self.size

    def of(self, whole: Tensor) -> Tensor:
        """Returns this part of a tensor whose rows are the whole batch's."""
        return whole[self.start : self.stop]

    def first(self, ratio: float, own: int) -> int:
        """Returns how many of this process's images belong to the first `ratio` of the whole batch."""
        return min(max(round(ratio * self.total(own)) - self.start, 0), own)


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` from 0, among `size` that train together; one alone does nothing here."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_torchrun(cls, device: torch.device) -> Self:
        """Joins the processes that `torchrun` started, if it did."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) < 2:
                return cls()
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process shows progress and writes files."""
        return self.rank == 0

    def part(self, size: int) -> BatchPart:
        """Returns this process's part of a batch, of as many images as there are processes or more."""
        if self.size == 1:
            return BatchPart()
        if size < self.size:
            raise InvalidInputError(f"batch_size: a batch of {size} images can't be shared by {self.size} processes")
        return self.share(size)

    def share(self, size: int) -> BatchPart:
        """Returns this process's part of `size` rows, which is empty where there are fewer rows than processes."""
        return BatchPart(self.rank * size // self.size, (self.rank + 1) * size // self.size, size)

    def gather(self, own: Tensor, size: int) -> Tensor:
        """Returns the rows of all processes, (size, …), the same to the bit in each; `own` is its share."""
        if self.size == 1:
            return own
        whole = own.new_zeros(size, *own.shape[1:])
        self.share(size).of(whole).copy_(own)
        return self.sum(whole)  # each is one process's value and zeros

    def sum(self, tensor: Tensor) -> Tensor:
        """Returns the sum over all processes, without gradient."""
        if self.size > 1:
            tensor = tensor.detach().clone()
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Waits for the others."""
        if self.size > 1:
            dist.barrier()

    @torch.no_grad()
    def start_alike(self, model: nn.Module) -> None:
        """Gives all processes the parameters and buffers of the first."""
        if self.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.data, src=0)

    @torch.no_grad()
    def add_gradients(self, model: nn.Module) -> None:
        """Replaces gradients by the sum of all processes'."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = parameters_to_vector(gradients)
        dist.all_reduce(flat)
        vector_to_parameters(flat, gradients)

    @contextmanager
    def common_batch_norms(self, model: nn.Module) -> Iterator[None]:
        """While training: BatchNorm takes its statistics from the whole batch; one with code of its own is refused."""
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if self.size > 1 else []
        odd = [type(norm).__name__ for norm in norms if type(norm).forward is not _BatchNorm.forward]
        if odd:
            raise UnsupportedModelError(
                f"{odd[0]} computes its statistics itself, so {self.size} processes would each have their own; "
                "train this network with one process"
            )
        try:
            for norm in norms:
                norm.forward = partial(_batch_norm, norm)  # type: ignore[method-assign]
            yield
        finally:
            for norm in norms:
                vars(norm).pop("forward", None)


def _batch_norm(norm: _BatchNorm, x: Tensor) -> Tensor:
    """What BatchNorm computes, with statistics over all processes; the gradient flows through them."""
    if not norm.training and norm.track_running_stats:
        return _BatchNorm.forward(norm, x)
    dims = [dim for dim in range(x.ndim) if dim != 1]
    shape = (1, -1, *[1] * (x.ndim - 2))
    own = torch.full((1,), x.numel() / x.shape[1], device=x.device, dtype=x.dtype)
    sums: Tensor = all_reduce(torch.cat([x.sum(dims), own]))  # type: ignore[no-untyped-call]
    count, mean = sums[-1], sums[:-1] / sums[-1]
    centred = x - mean.reshape(shape)
    variance: Tensor = all_reduce(centred.square().sum(dims)) / count  # type: ignore[no-untyped-call]
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked += 1
            momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
            norm.running_mean.lerp_(mean.detach().to(norm.running_mean), momentum)
            norm.running_var.lerp_((variance * count / (count - 1)).detach().to(norm.running_var), momentum)
    normalised: Tensor = centred * (variance + norm.eps).rsqrt().reshape(shape)
    if norm.weight is not None:
        normalised = normalised * norm.weight.reshape(shape) + norm.bias.reshape(shape)
    return normalised
