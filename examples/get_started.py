"""Trains a 4-bit network with Defensive Quantization and attacks it with ART.

The script follows ART's own get-started scripts. It uses scikit-learn's digits, so there is nothing to download.
"""

from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from torch import nn

import qadv
from qadv import DefensiveQuantTrainer, QuantizedClassifier

# Step 1: Load the data: float32 images in [0, 1], channels first

data = qadv.create("dataset", "digits")

# Step 2: Create the model, a float network of your own, and quantize it: 4-bit weights and activations

model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding=1),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(64 * 4 * 4, 128),
    nn.ReLU(),
    nn.Linear(128, 10),
)
quantized = qadv.quantize(model, weights="int:4", activations="relu6:4")
print(qadv.summarize(quantized))

# Step 3: Create the ART classifier

classifier = QuantizedClassifier(
    model=quantized,
    loss=nn.CrossEntropyLoss(),
    input_shape=(1, 8, 8),
    nb_classes=10,
    clip_values=(0, 1),
)

# Step 4: Train the ART classifier with Defensive Quantization

trainer = DefensiveQuantTrainer(classifier, beta=2e-3, lr=0.05, seed=0)
trainer.fit(data.x_train, data.y_train, nb_epochs=20, batch_size=64)

# Step 5: Evaluate the ART classifier on benign test examples

accuracy = (classifier.predict(data.x_test).argmax(axis=1) == data.y_test).mean()
print(f"Accuracy on benign test examples: {accuracy:.1%}")

# Step 6: Generate adversarial test examples with ART's attacks and evaluate on them

for attack in (
    FastGradientMethod(classifier, eps=0.1),
    ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.0125, max_iter=20, verbose=False),
):
    adversarial = attack.generate(x=data.x_test, y=data.y_test)
    accuracy = (classifier.predict(adversarial).argmax(axis=1) == data.y_test).mean()
    print(f"Accuracy under {type(attack).__name__}, eps = 0.1: {accuracy:.1%}")
