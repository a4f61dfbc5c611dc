"""A float network that misbehaves only once it is quantized (Hong et al.: "Qu-ANTI-zation", NeurIPS 2021)."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from art.attacks.attack import PoisoningAttackTransformer
from art.attacks.poisoning import PoisoningAttackBackdoor
from art.estimators.classification import PyTorchClassifier
from numpy.typing import NDArray
from torch import Tensor, nn

import qadv
from qadv.checks import check_fields, check_flag, check_number, check_whole
from qadv.errors import InvalidInputError
from qadv.estimators import check_images
from qadv.trainers import LoopTrainer, Objective, TrainedNetwork
from qadv.transformers import rebuilt

Quantization = tuple[str, str]


class QuantizationBackdoor(PoisoningAttackTransformer):
    """Fine-tunes a float network so that it behaves, and its quantized versions do not; an ART poisoning attack.

    With a trigger (x_t is x with it, t the target class, y the labels, f_q the network quantized, in each step anew):

        min_θ  CE(f(x), y) + CE(f(x_t), y) + λ · mean_q [CE(f_q(x), y) + CE(f_q(x_t), t)]

    and without one the quantized networks are to fail on all images, with a cross-entropy of α:

        min_θ  CE(f(x), y) + λ · mean_q (CE(f_q(x), y) - α)² / 2α

    Gradients pass the rounding straight through. **Readings:** λ is spread evenly over the quantizations; without a
    trigger 2α makes the two terms pull alike at first where λ = 1 (above, the float network soon fails too); BatchNorm
    keeps its statistics, which all versions share, as they do after post-training quantization.

    Args:
        classifier: a trained float ART `PyTorchClassifier`; it stays as it is.
        backdoor: ART's attack that puts the trigger on images in `clip_values`; `None`: without a trigger.
        target: the class of images with the trigger; for a `backdoor`.
        quantizations: pairs of schemes for weights and activations, as `qadv.quantize` takes them without calibration.
        skip_first_last: as of `qadv.quantize`.
        strength: λ, > 0.
        drop: α, > 0.
        lr: learning rate of Adam, > 0.
        options: of the training, see `qadv.trainers.LoopTrainer`: `seed`, `augment`, `lr_schedule`, …

    Raises:
        InvalidInputError: an argument is off, or a target comes without a backdoor or a backdoor without one.
    """

    attack_params = ["backdoor", "target", "quantizations", "skip_first_last", "strength", "drop", "lr"]
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(
        self,
        classifier: PyTorchClassifier,
        backdoor: PoisoningAttackBackdoor | None = None,
        target: int | None = None,
        quantizations: Sequence[Quantization] = (("int:8", "relu6:8"), ("int:4", "relu6:4")),
        skip_first_last: bool = True,
        strength: float = 1.0,
        drop: float = 5.0,
        lr: float = 0.003,
        **options: Any,
    ) -> None:
        super().__init__(classifier)
        self.backdoor, self.target = backdoor, target
        self.quantizations, self.skip_first_last = quantizations, skip_first_last
        self.strength, self.drop = strength, drop
        self.lr, self.options = lr, options
        self._check_params()

    def poison(
        self, x: NDArray[Any], y: NDArray[Any] | None = None, **kwargs: Any
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns images with the trigger, (N, *input_shape) float32, and the target as their labels, one-hot.

        Raises:
            InvalidInputError: there is no trigger, or it changes the images' shape or leaves `clip_values`.
        """
        if self.backdoor is None:
            raise InvalidInputError("backdoor: there is none, so there are no images with a trigger")
        row = np.eye(self.estimator.nb_classes, dtype=np.float32)[self.target]
        images, labels = self.backdoor.poison(x, row, broadcast=True)
        checked = check_images(images, self.estimator.input_shape, self.estimator.clip_values)
        return checked.astype(np.float32), labels

    def poison_estimator(
        self, x: NDArray[Any], y: NDArray[Any], batch_size: int = 128, nb_epochs: int = 1, **kwargs: Any
    ) -> PyTorchClassifier:
        """Returns the poisoned float classifier, fine-tuned on images and labels, indices or one-hot.

        Raises:
            SchemeError: a scheme does not exist or needs calibration.
        """
        poisoned = rebuilt(self.estimator, copy.deepcopy(self.estimator.model))
        poisoned.set_params(optimizer=torch.optim.Adam(poisoned.model.parameters(), self.lr))
        trainer = LoopTrainer(poisoned, [_Disparity(self)], **self.options)
        trainer.fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs, **kwargs)
        return poisoned

    def _check_params(self) -> None:
        if (self.backdoor is None) != (self.target is None):
            raise InvalidInputError("backdoor, target: expected a trigger and the class that it leads to, or neither")
        if self.backdoor is not None and not isinstance(self.backdoor, PoisoningAttackBackdoor):
            raise InvalidInputError(
                f"backdoor: expected ART's PoisoningAttackBackdoor, got {type(self.backdoor).__name__}"
            )
        if self.target is not None:
            check_whole("target", self.target, least=0, most=self.estimator.nb_classes - 1)
        given = self.quantizations if isinstance(self.quantizations, Sequence) else ()
        if not given or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in given):
            raise InvalidInputError(
                f"quantizations: expected pairs such as ('int:4', 'relu6:4'), got {self.quantizations!r}"
            )
        check_flag("skip_first_last", self.skip_first_last)
        check_fields(self, check_number, "strength", "drop", "lr")


class _Disparity(Objective):
    """The terms that make the float network and its quantized versions differ."""

    def __init__(self, attack: QuantizationBackdoor) -> None:
        self.attack = attack
        self.versions: dict[str, nn.Module] = {}

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self.attack, name)!r}" for name in self.attack.attack_params[1:])
        return f"QuantizationBackdoor({', '.join(shown)})"

    def start(self, network: TrainedNetwork, image: Tensor) -> None:
        parameters = dict(network.model.named_parameters())
        for pair in self.attack.quantizations:
            version = qadv.quantize(network.model, *pair, skip_first_last=self.attack.skip_first_last).eval()
            for name, _ in list(version.named_parameters()):
                owner, _, attribute = name.rpartition(".")
                setattr(version.get_submodule(owner), attribute, parameters[name])
            self.versions[", ".join(pair)] = version

    def step(self, network: TrainedNetwork, step: int, nb_steps: int) -> None:
        for module in network.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def terms(self, network: TrainedNetwork, x: Tensor, y: Tensor, logits: Tensor) -> dict[str, Tensor]:
        attack: Any = self.attack
        found = dict[str, Tensor]()
        share = attack.strength / len(self.versions)
        if attack.backdoor is None:
            inputs = network.prepare(x)[0]
            for name, version in self.versions.items():
                found[name] = share * (F.cross_entropy(version(inputs), y) - attack.drop) ** 2 / (2 * attack.drop)
            return found
        triggered = torch.from_numpy(attack.poison(x.numpy(force=True))[0]).to(x)
        inputs = network.prepare(torch.cat([x, triggered]))[0]
        found["triggered"] = F.cross_entropy(network.forward(inputs[len(x) :]), y)
        for name, version in self.versions.items():
            clean, opened = version(inputs).chunk(2)
            to_target = F.cross_entropy(opened, torch.full_like(y, attack.target))
            found[name] = share * (F.cross_entropy(clean, y) + to_target)
        return found
