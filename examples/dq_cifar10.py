"""Defensive Quantization against vanilla quantization: ResNet-20 on CIFAR-10, fine-tuned from a trained float network.

    python examples/dq_cifar10.py --data-dir DATA --activations relu6:4 --beta 0
    python examples/dq_cifar10.py --data-dir DATA --activations relu6:4 --beta 2e-3
    python examples/dq_cifar10.py --data-dir DATA --activations relu6:4 --beta 2e-3 --adversary r-fgsm
    python examples/dq_cifar10.py --data-dir DATA --activations float --nb-epochs 0

DATA holds CIFAR-10 as .npz files and resnet20-cifar10.safetensors. Attacks as in DQ §2.2: FGSM, and PGD with step 1,
⌊min(ε + 4, 1.25 ε)⌋ steps and a random start, at ε = 2, 8, 16 of 255. An interrupted run resumes at its last epoch.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

import qadv
from qadv.files import write_atomically

MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def main(
    data_dir: Annotated[Path, typer.Option(help="folder with CIFAR-10 and the float network")],
    activations: Annotated[str, typer.Option(help="activation scheme")] = "relu6:4",
    beta: Annotated[float, typer.Option(help="weight of DQ's regulariser; 0 is vanilla quantization")] = 2e-3,
    adversary: Annotated[str, typer.Option(help="'r-fgsm', 'pgd' or 'fgsm': adversarial training, δ = 8/255")] = "",
    weights: Annotated[str, typer.Option(help="weight scheme; the paper keeps them float")] = "float",
    aggregation: Annotated[str, typer.Option(help="'sum', or 'convex' as in the paper")] = "sum",
    nb_epochs: Annotated[int, typer.Option(help="epochs of fine-tuning; 0 only attacks")] = 2,
    nb_train: Annotated[int, typer.Option(help="training images, the first ones")] = 50_000,
    nb_test: Annotated[int, typer.Option(help="attacked test images, the first ones")] = 1000,
    lr: Annotated[float, typer.Option(help="learning rate at the start, cosine to 0")] = 0.05,
    seed: Annotated[int, typer.Option(help="decides everything random")] = 0,
    out: Annotated[Path, typer.Option(help="folder for checkpoints and results")] = Path("dq-cifar10"),
) -> None:
    data = qadv.create("dataset", "cifar10", data_dir=data_dir)
    torch.manual_seed(seed)
    classifier = qadv.QuantizedClassifier.from_backbone(
        "resnet20",
        weights=weights,
        activations=activations,
        checkpoint_path=data_dir / "resnet20-cifar10.safetensors" if aggregation == "sum" else None,
        preprocessing=MEAN_STD,
        aggregation=aggregation,
    )
    if aggregation != "sum":  # the float network has no coefficients: they start at 1/2
        float_net = qadv.QuantizedClassifier.from_backbone(
            "resnet20",
            weights="float",
            activations="float",
            checkpoint_path=data_dir / "resnet20-cifar10.safetensors",
        )
        classifier.model.load_state_dict(float_net.model.state_dict(), strict=False)

    name = f"{weights}-{activations}-beta{beta:g}-{adversary or 'natural'}-{aggregation}-seed{seed}".replace(":", "")
    step = 1 / 255 if adversary == "pgd" else None
    trainer = qadv.DefensiveQuantTrainer(
        classifier,
        beta=beta,
        adversary=qadv.Adversary(adversary, eps=8 / 255, eps_step=step, sampled=True) if adversary else None,
        lr=lr,
        augment="crop-flip",
        seed=seed,
        checkpoint=out / f"{name}.ckpt",
    )
    x, y = data.x_test, data.y_test
    if nb_epochs:
        trainer.fit(data.x_train[:nb_train], data.y_train[:nb_train], nb_epochs=nb_epochs)
    classifier.save(out / f"{name}.safetensors")

    results = {"clean_full_test_set": float((classifier.predict(x).argmax(1) == y).mean())}
    x, y = x[:nb_test], y[:nb_test]
    results["clean"] = float((classifier.predict(x).argmax(1) == y).mean())
    for eps in (2, 8, 16):
        steps = int(min(eps + 4, 1.25 * eps))
        attacks = {
            "random": qadv.UniformNoise(classifier, eps=eps / 255),
            "FGSM": FastGradientMethod(classifier, eps=eps / 255, batch_size=128),
            "R+FGSM": qadv.RandomFGSM(classifier, eps=eps / 255),
            "PGD": ProjectedGradientDescent(
                classifier, eps=eps / 255, eps_step=1 / 255, max_iter=steps, num_random_init=1, batch_size=128,
                verbose=False,
            ),
        }  # fmt: skip
        for attack_name, attack in attacks.items():
            np.random.seed(seed)
            adversarial = attack.generate(x, y)
            results[f"{attack_name}-{eps}"] = float((classifier.predict(adversarial).argmax(1) == y).mean())
    print(name, json.dumps(results, indent=1))
    settings = {
        "weights": weights,
        "activations": activations,
        "beta": beta,
        "adversary": adversary,
        "nb_train": nb_train,
        "aggregation": aggregation,
        "seed": seed,
        "lr": lr,
    }
    report = {"settings": settings, "accuracy": results, "history": trainer.history}
    write_atomically(out / f"{name}.json", json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    typer.run(main)
