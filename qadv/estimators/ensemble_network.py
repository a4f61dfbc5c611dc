"""`EnsembleNetwork`: several classifiers as one network, combined by their logits, probabilities or votes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qadv.backbones.standardisation import keep_picture_settings, picture_settings
from qadv.checks import check_choice, check_whole
from qadv.errors import InvalidInputError
from qadv.outputs import logits_of
from qadv.quantization.quantizer import straight_through

Classes = NDArray[np.int64]


class MeanLogits(nn.Module):
    """Logits of the ensemble: the mean of the members' logits."""

    def forward(self, logits: Tensor) -> Tensor:
        """(members, N, classes) → (N, classes)."""
        return logits.mean(0)


class MeanProbabilities(nn.Module):
    """Logits of the ensemble: the logarithm of the mean of the members' probabilities."""

    def forward(self, logits: Tensor) -> Tensor:
        """(members, N, classes) → (N, classes)."""
        return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


class Votes(nn.Module):
    """Logits of the ensemble: how many members vote for each class, 0 … members.

    A vote is a step; its gradient is the straight-through one, that of the member's softmax. It vanishes where members
    are sure, so an attack that finds nothing with it may find something with the mean of the logits: try both.

    Args:
        abstain_below: m. A last output stands for "no prediction", and is the largest where fewer than m members vote
            for one class (eq. 11). It is the constant m - 1/2, so it has no gradient of its own; the margins between
            it and the classes have one.
    """

    def __init__(self, abstain_below: int | None = None) -> None:
        super().__init__()
        self.abstain_below = abstain_below

    def forward(self, logits: Tensor) -> Tensor:
        """(members, N, classes) → (N, classes), or (N, classes + 1) with `abstain_below`."""
        soft = logits.softmax(-1)
        votes = straight_through(soft, nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(soft)).sum(0)
        if self.abstain_below is None:
            return votes
        return torch.cat([votes, votes.new_full((len(votes), 1), self.abstain_below - 0.5)], dim=1)

    def extra_repr(self) -> str:
        return "" if self.abstain_below is None else f"abstain_below={self.abstain_below}"


class Standardised(nn.Module):
    """`network((x - mean) / std)`, scalars or one value per channel: a member whose own preprocessing is inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Any, std: Any) -> None:
        super().__init__()
        self.network = network
        # not in the state dict, which is that of the network
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).flatten(), persistent=False)
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (value.view(-1, *[1] * (x.ndim - 2)) for value in (self.mean, self.std))
        output: Tensor = self.network((x - mean) / std)
        return output

    def extra_repr(self) -> str:
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}"


COMBINATIONS: dict[str, type[nn.Module]] = {"logits": MeanLogits, "probabilities": MeanProbabilities, "vote": Votes}


class EnsembleNetwork(nn.Module):
    """Several networks as one, (N, *input_shape) → (N, classes); gradients go through all of them.

    The members, two or more networks, each (N, *input_shape) → (N, classes) logits, are used as they are and not
    copied: submodules `member0`, `member1`, …; the last submodule is `combination`. See `EnsembleClassifier.of` for
    `combine` and `abstain_below`; of classes with equally many votes the first is predicted, as by argmax.

    Raises:
        InvalidInputError: fewer than two members, or an unknown combination.
    """

    def __init__(self, members: Sequence[nn.Module], combine: str = "logits", abstain_below: int | None = None) -> None:
        super().__init__()
        members = list(members)
        if len(members) < 2 or not all(isinstance(member, nn.Module) for member in members):
            kinds = ", ".join(type(member).__name__ for member in members)
            raise InvalidInputError(f"members: expected at least two networks (torch.nn.Module), got [{kinds}]")
        check_choice("combine", combine, COMBINATIONS)
        if abstain_below is not None:
            if combine != "vote":
                raise InvalidInputError(
                    f"abstain_below: members agree by their votes; expected combine='vote', got {combine!r}"
                )
            abstain_below = check_agreement(abstain_below, len(members), "abstain_below")
        self.nb_members = len(members)
        self.combine = combine
        self.abstain_below = abstain_below
        for index, member in enumerate(members):
            self.add_module(f"member{index}", member)
        pictures = [picture_settings(getattr(member, "network", member)) for member in members]
        if all(each == pictures[0] for each in pictures):
            keep_picture_settings(self, pictures[0])
        self.combination = Votes(abstain_below) if combine == "vote" else COMBINATIONS[combine]()

    @property
    def members(self) -> tuple[nn.Module, ...]:
        """The members' networks, each with its own preprocessing inside."""
        return tuple(self.get_submodule(f"member{index}") for index in range(self.nb_members))

    def member_logits(self, x: Tensor) -> Tensor:
        """Returns the logits of each member, (members, N, classes)."""
        return torch.stack([logits_of(member(x)) for member in self.members])

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.combination(self.member_logits(x))
        return output


def check_agreement(m: Any, nb_members: int, name: str = "m") -> int:
    """Returns the number of members that have to agree, 1 … members; something else is an `InvalidInputError`."""
    return check_whole(name, m, most=nb_members)


def most_voted(member_classes: NDArray[Any]) -> tuple[Classes, Classes]:
    """Returns the class that most members give, (N,), and how many they are, (N,), of predictions (members, N).

    Of classes with equally many votes the smallest is returned.
    """
    classes = check_member_classes(member_classes)
    votes = (classes[:, None, :] == classes[None, :, :]).sum(1)  # (members, N): how many give what this member gives
    counts = votes.max(0)
    winners = np.where(votes == counts, classes, np.iinfo(np.int64).max)
    return winners.min(0), counts


def check_member_classes(member_classes: Any) -> Classes:
    """Returns predicted classes, (members, N); something else is an `InvalidInputError`."""
    classes = np.asarray(member_classes)
    if classes.ndim != 2 or classes.size == 0 or not np.issubdtype(classes.dtype, np.integer):
        raise InvalidInputError(
            "member_classes: expected predicted classes as whole numbers, (members, N), as "
            f"EnsembleClassifier.member_predictions gives, got {classes.dtype} {classes.shape}"
        )
    return classes.astype(np.int64)
