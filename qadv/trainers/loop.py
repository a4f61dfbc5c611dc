"""The one training loop: every defense is a list of objectives on it."""

import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from qadv.checks import check_whole
from qadv.errors import InvalidInputError, TrainingError, UnsupportedModelError, some
from qadv.estimators.identity import identity, told, told_of_scheduler, told_of_step, without_addresses
from qadv.estimators.protocol import Classifier
from qadv.estimators.upkeep import run_after_steps
from qadv.modes import in_mode, kept, one_by_one
from qadv.random_states import seeded
from qadv.trainers.batches import Batches, LoaderBatches
from qadv.trainers.checkpoint import TrainingState
from qadv.trainers.early_stop import ROBUST, EarlyStop, best_epoch
from qadv.trainers.nan_report import first_bad_layer
from qadv.trainers.network import TrainedNetwork
from qadv.trainers.objective import Objective
from qadv.trainers.options import LoopOptions
from qadv.trainers.parallel import BatchPart, Processes
from qadv.trainers.progress import training_progress
from qadv.trainers.weight_decay import parameter_groups, warn_of_double_decay

History = list[dict[str, Any]]


class TrainingLoop:
    """Minimises a classifier's loss plus the terms of some objectives, on batches that live on its device.

    The classifier's torch preprocessors run inside the loop. `name` is shown beside the progress. With `early_stop` it
    ends with the weights of the best epoch; `run` then needs `validation`.
    """

    def __init__(
        self,
        classifier: Classifier,
        objectives: Sequence[Objective],
        options: LoopOptions,
        name: str,
        early_stop: EarlyStop | None = None,
    ) -> None:
        self.classifier, self.objectives = classifier, list(objectives)
        self.options, self.name, self.early_stop = options, name, early_stop
        self.history: History = []  # also while running, and after an interruption
        self.network = TrainedNetwork(classifier, options)

    def run(
        self,
        batches: Batches,
        nb_epochs: int,
        validation: Batches | None = None,
        scheduler: Any = None,
    ) -> History:
        """Trains, and leaves the network in evaluation mode; arguments and errors as of `LoopTrainer.fit`.

        Returns:
            One dict per epoch: `epoch`, `loss`, each term by name, `accuracy` (on the training batches as they came),
            `lr`, `seconds`, `val_loss` and `val_accuracy` where there are validation data, with `early_stop`
            `val_robust_accuracy`, and what objectives measure.
        """
        nb_epochs = check_whole("nb_epochs", nb_epochs)
        network, options = self.network, self.options
        model = network.model
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InvalidInputError(
                "the network has no trainable parameters; a frozen one, as loaded from a packed file, can only be "
                "attacked and measured: train the classifier that was exported"
            )
        optimizer: torch.optim.Optimizer | None = self.classifier.optimizer
        if optimizer is None:
            chosen = {name: getattr(options, name) for name in ("lr", "momentum", "weight_decay")}
            optimizer = torch.optim.SGD(parameter_groups(model), **chosen)
        else:
            warn_of_double_decay(optimizer, model)
        if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
            raise InvalidInputError(
                "scheduler: it steps a different optimizer than the classifier's; make the classifier with it"
            )
        _warn_of_moving_statistics(model)
        processes = Processes.of_torchrun(network.device)
        if processes.size > 1 and isinstance(batches, LoaderBatches) and not batches.alike:
            raise InvalidInputError(
                "a loader gives each process different batches; with several processes give arrays, or the Dataset"
            )
        base_lrs = [group["lr"] for group in optimizer.param_groups]
        state = TrainingState(model, optimizer, scheduler, batches.generators)
        done, self.history = 0, []
        if options.checkpoint is not None:
            run = self._describe(batches, nb_epochs, optimizer, scheduler)
            if validation is not None and (self.early_stop is not None or isinstance(scheduler, ReduceLROnPlateau)):
                run["validation"] = validation.digest()
            done, self.history = state.resume(options.checkpoint, run)
        if options.channels_last:
            model.to(memory_format=torch.channels_last)
        processes.start_alike(model)
        with torch.no_grad():
            image = network.prepare(torch.zeros((1, *self.classifier.input_shape), device=network.device))[0]

        lrs = base_lrs if scheduler is None else None
        upkeep = run_after_steps(optimizer, model)
        shown = options.verbose and processes.is_first
        try:
            for objective in self.objectives:
                objective.start(network, image)
            with (
                processes.common_batch_norms(model),
                training_progress(self.name, nb_epochs, len(batches), done, shown) as report,
            ):
                for epoch in range(done, nb_epochs):
                    if self._has_collapsed():
                        break
                    with seeded(options.seed, epoch):  # a resumed run draws what an uninterrupted one does
                        entry = self._epoch(epoch, nb_epochs, batches, processes, optimizer, lrs, report)
                    with in_mode(model, training=False), kept(network, "fit"):
                        network.fit = False
                        if validation is not None:
                            entry.update(self._validate(validation))
                        if self.early_stop is not None and validation is not None:
                            with seeded(options.seed, epoch, 1):
                                right, images = processes.sum(self.early_stop.measure(network, validation)).tolist()
                            entry[ROBUST] = right / images
                        if isinstance(scheduler, ReduceLROnPlateau):
                            scheduler.step(entry.get("val_loss", entry["loss"]))
                        elif scheduler is not None:
                            scheduler.step()
                        for objective in self.objectives:
                            entry.update(objective.measure(network))
                    self.history.append(entry)
                    if self.early_stop is not None and best_epoch(self.history) == epoch:
                        state.keep()
                    if options.checkpoint is not None:
                        if processes.is_first:
                            state.save(options.checkpoint, run, epoch + 1, self.history)
                        processes.wait()
                state.take_best()
        finally:
            with in_mode(model, training=False):
                upkeep.remove()
            for objective in self.objectives:
                objective.finish(network)
            for group, lr in zip(optimizer.param_groups, lrs or (), strict=False):
                group["lr"] = lr  # the schedule is over: the user's optimizer is as it was
        return self.history

    def _epoch(
        self,
        epoch: int,
        nb_epochs: int,
        batches: Batches,
        processes: Processes,
        optimizer: torch.optim.Optimizer,
        base_lrs: list[float] | None,
        report: Callable[[int, float, float], None],
    ) -> dict[str, Any]:
        network, options = self.network, self.options
        model, augment = network.model, options.augmentation(network.black)
        penalties: list[Any] = [m for m in model.modules() if callable(getattr(m, "penalty", None))]
        started = time.perf_counter()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=network.device))
        seen, unreached = 0, {} if self.history else {n: p for n, p in model.named_parameters() if p.requires_grad}
        for step, (x, y) in enumerate(one_by_one(model, batches)):
            if base_lrs is not None:
                factor = options.lr_factor(epoch * len(batches) + step, len(batches), nb_epochs)
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = base * factor
            if augment is not None:
                x = augment(x)
            size, part = len(x), processes.part(len(x))
            network.part, x, y = part, part.of(x), part.of(y)
            for objective in self.objectives:
                objective.step(network, epoch * len(batches) + step, nb_epochs * len(batches))
                x = objective.inputs(network, x, y)
            inputs, targets = network.prepare(x, y)
            logits = network.forward(inputs)
            loss = network.loss(logits, targets)
            terms: dict[str, Tensor] = {}
            for objective in self.objectives:
                terms.update(objective.terms(network, x, y, logits))
            if penalties:
                terms["scheme_penalty"] = torch.stack([module.penalty() for module in penalties]).sum()
            total = loss + sum(terms.values())
            optimizer.zero_grad(set_to_none=True)
            scaled: Tensor = total * (len(x) / size) if len(x) < size else total
            if not scaled.requires_grad:
                raise UnsupportedModelError(
                    "no parameter of the network has a gradient of the loss: layers that compute with integers let "
                    "none through. Train a network before it is converted"
                )
            scaled.backward()  # type: ignore[no-untyped-call]
            unreached = {name: each for name, each in unreached.items() if each.grad is None}
            processes.add_gradients(model)
            if step % 50 == 0 or x.device.type == "cpu":  # on a GPU each look waits for the device
                self._check_finite(processes.sum(total), inputs, epoch, step, terms)
            optimizer.step()

            seen += size
            for name, value in {"loss": loss, **terms}.items():
                sums[name] += value.detach() * len(x)
            sums["accuracy"] += (logits.detach().argmax(1) == y).sum()
            if step % 10 == 9 or step == len(batches) - 1:
                shown = processes.sum(torch.stack([sums["loss"], sums["accuracy"]])) / seen
                report(epoch * len(batches) + step + 1, *shown.tolist())
        if unreached:
            warnings.warn(
                f"no gradient has reached {some(sorted(unreached))}: the training leaves them as they are. They are "
                "not used, or stand before a rounding without a straight-through step",
                stacklevel=4,
            )
        network.part = BatchPart()
        means = dict(zip(sums, (processes.sum(torch.stack([*sums.values()])) / seen).tolist(), strict=True))
        if not np.isfinite(means["loss"]):
            raise TrainingError(f"the loss became {means['loss']} in epoch {epoch}; lower the learning rate")
        lr = optimizer.param_groups[0]["lr"]
        return {"epoch": epoch, **means, "lr": lr, "seconds": time.perf_counter() - started}

    def _has_collapsed(self) -> bool:
        if self.early_stop is None or not self.history:
            return False
        best, last = self.history[best_epoch(self.history)], self.history[-1]
        if last[ROBUST] >= best[ROBUST] - self.early_stop.drop:
            return False
        warnings.warn(
            f"accuracy under PGD on held-out images fell from {best[ROBUST]:.1%} after epoch {best['epoch']} to "
            f"{last[ROBUST]:.1%} after epoch {last['epoch']}: the training ends, with the weights of epoch "
            f"{best['epoch']}",
            stacklevel=5,
        )
        return True

    @torch.no_grad()
    def _validate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Loss and accuracy in evaluation mode."""
        correct, found = 0, list[tuple[Tensor, Any]]()
        for x, labels in batches:
            inputs, targets = self.network.prepare(x, labels)
            logits = self.classifier.model(inputs)
            found.append((logits, targets))
            correct += int((logits.argmax(1) == labels).sum())
        logits, targets = (torch.cat(part) for part in zip(*found, strict=True))  # a weighted mean is one of all images
        return {"val_loss": self.network.loss(logits, targets).item(), "val_accuracy": correct / len(logits)}

    def _check_finite(self, total: Tensor, x: Tensor, epoch: int, step: int, terms: dict[str, Tensor]) -> None:
        if torch.isfinite(total):
            return
        parts = ", ".join(f"{name} {value.item():.3g}" for name, value in terms.items())
        where = first_bad_layer(self.classifier.model, x)
        raise TrainingError(
            f"the loss is {total.item()} in epoch {epoch}, step {step}{f' ({parts})' if parts else ''}; first layer "
            f"with a value that is not finite: {where}. Lower the learning rate, or start from a trained network"
        )

    def _describe(
        self, batches: Batches, nb_epochs: int, optimizer: torch.optim.Optimizer, scheduler: Any
    ) -> dict[str, Any]:
        """Returns what determines the result of a run; the checkpoint of another run is refused."""
        model = self.classifier.model
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        return {
            "backbone": getattr(model, "qadv_backbone", None),
            "quantization": getattr(model, "qadv_quantization", None),
            "loss": told(self.classifier.loss),
            "clip_values": identity(self.classifier.clip_values),
            "preprocessing": [told_of_step(step) for step in self.classifier.preprocessing_operations],
            "optimizer": " ".join(map(str, (type(optimizer).__name__, *groups))),
            "scheduler": told_of_scheduler(scheduler),
            "trainer": self.name,
            "nb_epochs": int(nb_epochs),
            "steps_per_epoch": len(batches),
            "data": batches.digest(),
            "objectives": [without_addresses(objective) for objective in self.objectives],
            **({} if self.early_stop is None else {"early_stop": without_addresses(self.early_stop)}),
            **self.options.describe(),
        }


def _warn_of_moving_statistics(model: nn.Module) -> None:
    """Warns of BatchNorms with frozen parameters, whose statistics follow the training all the same."""
    before = {module: module.training for module in model.modules()}
    norms = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    with in_mode(model, training=True):  # a `train` of the network's own may leave some as they are
        moved = [(name, [*each.parameters()]) for name, each in norms if each.training and each.track_running_stats]
        for module, mode in before.items():
            module.training = mode
    if found := [name for name, own in moved if own and not any(parameter.requires_grad for parameter in own)]:
        warnings.warn(
            f"the parameters of {some(found)} are frozen, their running statistics are not: training mode moves them. "
            "timm.layers.freeze_batch_norm_2d(network), before quantizing, makes layers of them that stay as they are",
            stacklevel=4,
        )
