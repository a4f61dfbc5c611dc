"""Float, 8, 4 and 2-bit networks side by side: clean, under natural and systematic noise, and under attack.

    python benchmarks/noise.py --data-dir DATA [--dataset mnist --eps 0.1 --severity 1] [--nb-test 500] [--as-json]

CIFAR-10: the trained ResNet-20 of DATA. MNIST: MNIST-CNN of width 16, trained for an epoch of `--nb-train` images. From
there the 2-bit network is trained on with as many images, and the float one too, to tell what training does from what
bits do; the others are calibrated on 1,024. The files, with the 8-bit network as an ONNX file, go to `--out`, and what
is there already is not made again; `qadv compare --noise` does the rest.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import save_file

import qadv
from qadv.command_options import CompareOptions
from qadv.commands.compare import run_compare

NETWORKS = {
    "float": ("float", "float"),
    "float-trained-on": ("float", "float"),
    "8bit": ("int:8", "relu:8"),
    "4bit": ("int:4", "relu:4"),
    "2bit": ("twn", "relu:2"),
}
TRAINED_ON = ("float-trained-on", "2bit")
BACKBONES: dict[str, dict[str, Any]] = {
    "cifar10": {"backbone": "resnet20", "preprocessing": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])},
    "mnist": {"backbone": "mnist-cnn", "width": 16, "input_shape": (1, 28, 28)},
}


def make(name: str, data: Any, checkpoint: Path, order: Any, nb_train: int, seed: int) -> qadv.QuantizedClassifier:
    """Returns a network, trained on where it has to learn; a checkpoint that is not there is to be learnt."""
    torch.manual_seed(seed)
    weights, activations = NETWORKS[name]
    options = dict(BACKBONES[data.name])
    classifier = qadv.QuantizedClassifier.from_backbone(
        options.pop("backbone"),
        weights=weights,
        activations=activations,
        checkpoint_path=checkpoint if checkpoint.is_file() else None,
        calibration=None
        if weights == "float"
        else qadv.Calibration(data.x_train[order[:1024]], ranges="mse", batch_norm=True, bias_correction=True),
        **options,
    )
    if name in TRAINED_ON or not checkpoint.is_file():
        augment = "crop-flip" if data.name == "cifar10" else None
        trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.01, augment=augment, seed=seed, verbose=False)
        trainer.fit(data.x_train[order[:nb_train]], data.y_train[order[:nb_train]], nb_epochs=1)
    return classifier


def main(
    data_dir: Annotated[
        Path, typer.Option(help="folder with the images, and for CIFAR-10 resnet20-cifar10.safetensors")
    ],
    dataset: Annotated[str, typer.Option(help="cifar10 or mnist")] = "cifar10",
    eps: Annotated[str, typer.Option(help="radius of PGD of ten steps")] = "1/255",
    severity: Annotated[int, typer.Option(help="of the corruptions")] = 3,
    nb_test: Annotated[int, typer.Option(help="number of test images")] = 500,
    nb_train: Annotated[int, typer.Option(help="number of images to train on")] = 12_800,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    as_json: Annotated[bool, typer.Option(help="print each accuracy")] = False,
    out: Annotated[Path, typer.Option(help="folder for networks and the chart")] = Path("noise"),
) -> None:
    folder = out / f"{dataset}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    data = qadv.create("dataset", dataset, data_dir=data_dir)
    order = np.random.default_rng(seed).permutation(len(data.x_train))
    checkpoint = data_dir / "resnet20-cifar10.safetensors" if dataset == "cifar10" else folder / "weights.safetensors"
    paths = {name: folder / f"{name}.safetensors" for name in NETWORKS}
    for name, path in paths.items():
        if not path.exists():
            classifier = make(name, data, checkpoint, order, nb_train, seed)
            classifier.save(path)
            if not checkpoint.is_file():
                save_file(classifier.network.state_dict(), checkpoint)
    exported = folder / "8bit.onnx"
    if not exported.exists():
        qadv.export(qadv.open_classifier(paths["8bit"]), exported, to="onnx")
    models = [str(path) for path in (*paths.values(), exported)]
    run_compare(
        CompareOptions(
            models=models,
            dataset=dataset,
            data_dir=data_dir,
            attack=["pgd:max_iter=10"],
            eps=eps,
            noise=True,
            severity=severity,
            nb_test=nb_test,
            seed=seed,
            as_json=as_json,
            out=folder / "noise.png",
        )
    )


if __name__ == "__main__":
    typer.run(main)
