"""SPSA against networks with few activation levels: accuracy by the distance of its probes, beside PGD's.

    python benchmarks/spsa_probes.py

Trains a float and a 4-bit `mnist-cnn` on scikit-learn's digits and attacks 50 test images, ε = 0.2. One minute.
"""

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from rich.console import Console
from rich.table import Table

import qadv

EPS = 0.2
DELTAS = (0.01, 0.03, 0.1, 0.2)
STEPS = (30, 100)


def main() -> None:
    data = qadv.create("dataset", "digits")
    table = Table(title=f"accuracy, %, ε = {EPS}, after {' / '.join(map(str, STEPS))} steps")
    for column in ("activations", *(f"SPSA, delta={delta}" for delta in DELTAS), "PGD"):
        table.add_column(column)
    for weights, activations in (("float", "float"), ("int:4", "relu6:4")):
        torch.manual_seed(0)
        classifier = qadv.QuantizedClassifier.from_backbone(
            "mnist-cnn", weights, activations, input_shape=(1, 8, 8), image_size=8, width=8
        )
        trainer = qadv.DefensiveQuantTrainer(classifier, beta=0.0, lr=0.1, verbose=False)
        trainer.fit(data.x_train, data.y_train, nb_epochs=8, batch_size=64)
        right = classifier.predict(data.x_test).argmax(1) == data.y_test
        x, y = data.x_test[right][:50], data.y_test[right][:50]
        rows = [
            [
                qadv.SPSA(
                    classifier,
                    EPS,
                    delta,
                    learning_rate=0.02,
                    max_iter=n,
                    nb_samples=64,
                    early_stop=True,
                    seed=0,
                    verbose=False,
                )
                for n in STEPS
            ]
            for delta in DELTAS
        ]
        rows.append(
            [ProjectedGradientDescent(classifier, eps=EPS, eps_step=0.02, max_iter=n, verbose=False) for n in STEPS]
        )
        left = [[np.mean(classifier.predict(attack.generate(x, y)).argmax(1) == y) for attack in row] for row in rows]
        table.add_row(activations, *(" / ".join(f"{accuracy:.0%}" for accuracy in row) for row in left))
    Console().print(table)


if __name__ == "__main__":
    main()
