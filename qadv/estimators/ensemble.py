"""`EnsembleClassifier`: networks of different bit widths that ART takes for one classifier (docs/methods.md §5)."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import nn

from qadv.backbones.standardisation import report_standardisation
from qadv.errors import InvalidInputError
from qadv.estimators.attacked import AttackedNetwork
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.door import in_batches
from qadv.estimators.ensemble_network import EnsembleNetwork, Standardised
from qadv.estimators.rebuilt import like, rebuilt
from qadv.estimators.storage import leaves_pixels, mean_std
from qadv.modes import held_network, in_mode
from qadv.postprocessors.softmax import Softmax

Array = NDArray[Any]


class EnsembleClassifier(QuantizedClassifier):
    """Several classifiers behind one estimator: ART's attacks see one network, with gradients through all of them.

        ensemble = qadv.EnsembleClassifier.of([float_net, w1a1, w2a2, w3a3, w4a4], combine="vote", abstain_below=4)

    The members' networks are shared, not copied: training one changes the ensemble, and `fit` trains all of them
    through the combination.

    Args:
        model: an `EnsembleNetwork`. The other arguments are as in `QuantizedClassifier`; `nb_classes` counts the
            outputs, one more than there are classes with `abstain_below`. `EnsembleClassifier.of` does all this.

    Raises:
        InvalidInputError: the model is no `EnsembleNetwork`, or another argument is off.
    """

    model: Any  # an `AttackedNetwork` that holds an `EnsembleNetwork`

    @classmethod
    def of(
        cls,
        members: Sequence[PyTorchClassifier | nn.Module],
        combine: str = "logits",
        abstain_below: int | None = None,
        loss: nn.Module | None = None,
        input_shape: tuple[int, ...] | None = None,
        nb_classes: int | None = None,
        **options: Any,
    ) -> Self:
        """Makes an ensemble of classifiers, or of networks.

        Args:
            members: at least two ART `PyTorchClassifier` for the same images and classes, each with its own
                `preprocessing`, which goes inside the ensemble's network; or bare networks without any.
            combine: `"logits"` (mean), `"probabilities"` (mean, as logarithm) or `"vote"` (count; its gradient is the
                softmax's, see `Votes`).
            abstain_below: m, with `combine="vote"`: a further class, the last, is predicted where fewer than m members
                agree. An untargeted attack takes it for a success; a defender does not (`qadv.diagnostics`).
            loss: default `torch.nn.CrossEntropyLoss()`.
            input_shape, nb_classes: of bare networks; otherwise those of the classifiers.
            options: as in `QuantizedClassifier`: `optimizer`, `clip_values`, `preprocessing_defences`,
                `postprocessing_defences`, `device_type`, `probabilities`, `fold`.

        Raises:
            InvalidInputError: members do not fit together, or have defences of their own.
        """
        if not isinstance(members, list | tuple):
            raise InvalidInputError(f"members: expected a list of classifiers, got {type(members).__name__}")
        classifiers = [member for member in members if isinstance(member, PyTorchClassifier)]
        given = {"input_shape": input_shape, "nb_classes": nb_classes, "clip_values": options.pop("clip_values", None)}
        shared = {name: _shared(name, value, classifiers) for name, value in given.items()}
        network = EnsembleNetwork([_network(member, i) for i, member in enumerate(members)], combine, abstain_below)
        shared["nb_classes"] += abstain_below is not None
        for member in members:
            if not isinstance(member, PyTorchClassifier) and options.get("preprocessing") is None:
                report_standardisation(member, shared["input_shape"][0], shared["clip_values"])
        return cls(network, nn.CrossEntropyLoss() if loss is None else loss, **shared, **options)

    @property
    def nb_members(self) -> int:
        """Number of members."""
        return int(self.model.nb_members)

    @property
    def members(self) -> tuple[QuantizedClassifier, ...]:
        """The members as classifiers of their own, to attack or train; made at each access, on the networks inside."""
        mean, std = mean_std(self)
        members = []
        for network in self.model.members:
            preprocessing = mean, std
            if isinstance(network, Standardised):
                own_mean, own_std = network.mean.numpy(force=True), network.std.numpy(force=True)
                preprocessing = mean + std * own_mean, std * own_std
                network = network.network
            if not isinstance(network, AttackedNetwork):
                network = AttackedNetwork(network, self.model.form_options)
            changed = {"nb_classes": self._nb_member_classes, "postprocessing_defences": None}
            members.append(like(QuantizedClassifier, self, network, preprocessing=preprocessing, **changed))
        return tuple(members)

    def combined_by(self, combine: str, abstain_below: int | None = None) -> Self:
        """Returns an ensemble of the same networks, combined otherwise, as in `of`: for attacks by better gradients."""
        network = EnsembleNetwork(self.model.members, combine, abstain_below)
        nb_classes = self._nb_member_classes + (abstain_below is not None)
        return rebuilt(self, AttackedNetwork(network, self.model.form_options), nb_classes=nb_classes)

    def member_logits(self, x: Array, batch_size: int = 128) -> NDArray[np.float32]:
        """Returns each member's logits, (members, N, classes) float32; arguments and errors as of `predict`."""
        x = self._checked_images(x)
        with in_mode(self.model, training=False):
            return in_batches(
                self, x, batch_size, lambda batch: self.model.evaluated(batch.float(), "member_logits"), axis=1
            )

    def member_predictions(self, x: Array, batch_size: int = 128) -> NDArray[np.int64]:
        """Returns the class that each member predicts, (members, N); arguments as in `member_logits`."""
        return np.asarray(self.member_logits(x, batch_size).argmax(-1), dtype=np.int64)

    @property
    def _nb_member_classes(self) -> int:
        return int(self.nb_classes) - (self.model.abstain_below is not None)

    def _check_model(self) -> None:
        if not isinstance(self.network, EnsembleNetwork):
            raise InvalidInputError(
                f"model: expected an EnsembleNetwork, got {type(self.model).__name__}; make an ensemble with "
                "EnsembleClassifier.of([classifier, classifier, ...])"
            )
        super()._check_model()

    def __repr__(self) -> str:
        members = "".join(f"    {_describe(member)},\n" for member in self.members)
        settings = f"combine={self.model.combine!r}"
        if self.model.abstain_below is not None:
            settings += f", abstain_below={self.model.abstain_below}"
        if self.probabilities:
            settings += ", probabilities=True"
        return f"{type(self).__name__}.of([\n{members}], {settings})"


def _shared(name: str, value: Any, classifiers: Sequence[PyTorchClassifier]) -> Any:
    """Returns an argument that is the same for all members."""
    values = [_plain(getattr(classifier, name)) for classifier in classifiers]
    if value is not None:
        values.append(_plain(value))
    if any(other != values[0] for other in values):
        raise InvalidInputError(f"members: expected the same {name} for all, got {', '.join(map(str, values))}")
    if not values and name == "clip_values":
        return (0.0, 1.0)
    if not values:
        raise InvalidInputError(f"{name}: networks do not say it; give of(..., input_shape=(1, 28, 28), nb_classes=10)")
    return values[0]


def _plain(value: Any) -> Any:
    return tuple(np.asarray(value).tolist()) if isinstance(value, tuple | list | np.ndarray) else value


def _network(member: Any, index: int) -> nn.Module:
    """Returns a member's network, with its preprocessing inside."""
    if isinstance(member, nn.Module):
        return _part(member)
    if not isinstance(member, PyTorchClassifier):
        raise InvalidInputError(
            f"members: expected ART PyTorchClassifiers or torch.nn.Modules, member {index} is a {type(member).__name__}"
        )
    if member.preprocessing is not None and not hasattr(member.preprocessing, "mean"):
        raise InvalidInputError(
            f"members: member {index} has preprocessing by {type(member.preprocessing).__name__}; expected (mean, std)"
        )
    defences = [*(member.preprocessing_defences or []), *(member.postprocessing_defences or [])]
    names = ", ".join(type(defence).__name__ for defence in defences if not isinstance(defence, Softmax))
    if names:
        raise InvalidInputError(
            f"members: member {index} has defences of its own ({names}), which would be lost; give defences to the "
            "ensemble, or put them inside the member's network"
        )
    network = _part(member.model)
    return network if leaves_pixels(member) else Standardised(network, *mean_std(member))


def _part(model: nn.Module) -> nn.Module:
    """Returns the network itself, or what holds it where its gradients are another's."""
    attacked = AttackedNetwork.of(model)
    return attacked if attacked.computes_itself else attacked.held_network


def _describe(member: QuantizedClassifier) -> str:
    if hasattr(member.model, "qadv_backbone"):
        return repr(member)
    return f"{type(held_network(member.model)).__name__}(...)"
