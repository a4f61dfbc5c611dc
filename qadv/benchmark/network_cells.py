"""Makes the network of a cell: backbone, quantizer, training, transformers; and loads it for the cells that need it."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qadv.benchmark.cells import FILES, Finished, digest
from qadv.benchmark.given import Given
from qadv.benchmark.made_attacks import made_attack
from qadv.benchmark.signatures import arguments
from qadv.benchmark.specs import NetworkSpec
from qadv.datasets import ImageDataset, Images
from qadv.datasets.changed import Changed
from qadv.datasets.dataset import check_classes
from qadv.errors import InvalidInputError
from qadv.estimators.classifier import QuantizedClassifier
from qadv.estimators.door import give_optimizer
from qadv.estimators.ensemble import EnsembleClassifier
from qadv.estimators.storage import ENSEMBLE_FORMAT, read_header
from qadv.files import InMemory
from qadv.frontends.find import files
from qadv.frontends.summary import summarize
from qadv.registry import create, load
from qadv.trainers.adversary import Adversary
from qadv.trainers.weight_decay import parameter_groups
from qadv.transformers.post_training_quantization import PostTrainingQuantization

WEIGHTS = FILES["network"]


def network_cell(spec: NetworkSpec, needed: Mapping[str, Finished], given: Given) -> Finished:
    """Trains a network; its file is `network.safetensors`. One that is a file has that."""
    started = time.perf_counter()
    if spec.backbone.file is not None:
        path = (given.data_dir or Path()) / spec.backbone.file[0]
        file, summary = path.read_bytes(), summarize(opened_file(path, spec))
        shipped = {"packed": len(file), "float32": summary.float_bytes}
        return Finished({"history": [], "seconds": time.perf_counter() - started, "bytes": shipped}, {path.name: file})
    history, defense = list[dict[str, Any]](), spec.defense
    if spec.members:
        members = [load_network(needed[key]) for key in spec.members]
        classifier: QuantizedClassifier = EnsembleClassifier.of(members, **defense.ensemble)
    else:
        data = given.images(spec.dataset)
        classifier = _start(spec, needed, given.data_dir)
        if not spec.quantizer.after_training:
            classifier = _quantized(classifier, spec, data)
        if defense.trainer is not None:
            history = _train(classifier, spec, data, given.scratch)
        for each in defense.transformers:
            made = create("transformer", each.name, classifier, **each.options)
            classifier = made(data.take("train", each.calibration)[0] if each.calibration else None)
        if spec.quantizer.after_training:
            classifier = _quantized(classifier, spec, data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        classifier.save(path)
        content = path.read_bytes()
    form = classifier.model.form_options.to_dict()  # how all cells that read the file compute the network
    record: dict[str, Any] = {"history": history, "seconds": time.perf_counter() - started, "form": form}
    if not spec.members:
        summary = summarize(classifier)
        record["bytes"] = {"packed": summary.packed_bytes, "float32": summary.float_bytes}
    return Finished(record, {WEIGHTS: content})


def load_network(finished: Finished, defended: bool = True) -> QuantizedClassifier:
    """Returns the classifier of a finished network cell, `defended` by its preprocessors or without them."""
    spec = NetworkSpec.model_validate(finished.record["spec"])
    steps = spec.defense.preprocessors if defended else ()
    made = [create("preprocessor", each.name, **each.options) for each in steps]
    if spec.backbone.file is not None:
        ((name, content),) = finished.files.items()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            return opened_file(path, spec, preprocessing_defences=made or None)
    file = InMemory(f"{WEIGHTS} of cell {digest(spec)}", finished.files[WEIGHTS])
    cls = EnsembleClassifier if read_header(file)["format"] == ENSEMBLE_FORMAT else QuantizedClassifier
    return cls.load(file, preprocessing_defences=made or None)


def opened_file(path: Path, spec: NetworkSpec, **arguments: Any) -> QuantizedClassifier:
    """Returns the classifier of a network that is a file.

    Raises:
        InvalidInputError: it is not the file that the study was planned with, or has other classes than the data set.
    """
    assert spec.backbone.file is not None
    if spec.backbone.mean is not None:
        arguments["preprocessing"] = (spec.backbone.mean, spec.backbone.std)
    arguments |= spec.backbone.options
    found = QuantizedClassifier.from_file(path, spec.input_shape, **arguments)
    if found.clip_values != (0, 1):  # noted; a study's pixels are from 0 to 1
        low, high = found.clip_values or (0.0, 1.0)
        arguments["clip_values"] = (0.0, 1.0)
        if not found.network.takes_bytes:
            arguments.setdefault("preprocessing", (-low / (high - low), 1 / (high - low)))
        found = QuantizedClassifier.from_file(path, spec.input_shape, **arguments)
    if spec.backbone.file[1] not in files(found.model).values():
        raise InvalidInputError(
            f"{path.name} is not the file that the study was planned with, or keeps weights in files beside it: save "
            "it as one, onnx.save(onnx.load(path), path)"
        )
    check_classes(range(spec.nb_classes), found.nb_classes, spec.dataset.name)
    return found


def _start(spec: NetworkSpec, needed: Mapping[str, Finished], data_dir: Path | None) -> QuantizedClassifier:
    if spec.start is not None:
        return load_network(needed[spec.start], defended=False)
    checkpoint = spec.backbone.checkpoint
    return untrained(spec, None if checkpoint is None else (data_dir or Path()) / checkpoint[0])


def untrained(spec: NetworkSpec, checkpoint: Path | None = None) -> QuantizedClassifier:
    """Returns a float network of a cell's backbone with new weights, or those of a checkpoint."""
    backbone = spec.backbone
    torch.manual_seed(spec.seed)
    return QuantizedClassifier.from_backbone(
        backbone.backbone,
        "float",
        "float",
        input_shape=spec.input_shape,
        nb_classes=spec.nb_classes,
        checkpoint_path=checkpoint,
        preprocessing=None if backbone.mean is None else (backbone.mean, backbone.std),
        **backbone.options,
    )


def _quantized(classifier: QuantizedClassifier, spec: NetworkSpec, data: ImageDataset) -> QuantizedClassifier:
    quantizer = spec.quantizer
    wanted = quantizer.model_dump(include={"weights", "activations"})
    done = getattr(classifier.model, "qadv_quantization", None)
    if done is not None and {key: done[key] for key in wanted} != wanted:
        raise InvalidInputError(
            f"the start is quantized as {done['weights']}, {done['activations']}, and so it stays; name that "
            "quantizer, or another start"
        )
    if done is not None or wanted == {"weights": "float", "activations": "float"}:
        return classifier
    calibration = data.take("train", quantizer.calibration)[0] if quantizer.calibration else None
    schemes = quantizer.weights, quantizer.activations
    used = quantizer.calibration_attack
    attack = None if used is None else made_attack(used.name, used.options, classifier)
    made = PostTrainingQuantization(classifier, *schemes, quantizer.skip_first_last, calibration, attack)
    return made()  # type: ignore[no-any-return]


def _train(
    classifier: QuantizedClassifier, spec: NetworkSpec, data: ImageDataset, scratch: Path
) -> list[dict[str, Any]]:
    defense = spec.defense
    if (chosen := defense.optimizer) is not None:
        make = getattr(torch.optim, chosen.name)
        give_optimizer(classifier, make(parameter_groups(classifier.model), **chosen.options))
    checkpoint = scratch / f"{digest(spec)}.ckpt"
    more = {"seed": spec.seed, "verbose": False, "checkpoint": checkpoint}
    trainer = made_trainer(str(defense.trainer), classifier, defense.options, **more)
    fit = defense.fit
    assert fit is not None  # `names.faults` refuses a trainer without
    x, y = training_images(trainer, data, spec.nb_train)
    trainer.fit(x, y, nb_epochs=fit.nb_epochs, batch_size=fit.batch_size)
    for left in scratch.glob(f"{checkpoint.name}*"):
        left.unlink(missing_ok=True)
    return list(getattr(trainer, "history", []))


def training_images(trainer: Any, data: ImageDataset, nb_train: int | None) -> tuple[Any, Any]:
    """Returns what `fit` trains on: arrays, or photographs in batches where the trainer takes these.

    Where test images alone are changed it is what it would be without that, so that the network is the same to the bit.
    """
    held = data
    while isinstance(held, Changed):
        held = held.images
    in_batches = not isinstance(held, Images) and getattr(trainer, "takes_sources", False)
    return (data.samples("train", nb_train), None) if in_batches else data.take("train", nb_train)


def made_trainer(name: str, classifier: QuantizedClassifier, options: Mapping[str, Any], **more: Any) -> Any:
    """Returns a trainer by name; its `options` are as TOML says them, of `more` it gets what it takes."""
    options, target = dict(options), load("trainer", name)
    if isinstance(options.get("adversary"), dict):
        options["adversary"] = Adversary(**options["adversary"])
    if isinstance(options.get("lr_schedule"), dict):  # keys of TOML and JSON are text
        options["lr_schedule"] = {int(epoch): factor for epoch, factor in options["lr_schedule"].items()}
    taken = arguments(target)
    return target(classifier, **options, **{key: value for key, value in more.items() if taken is None or key in taken})
