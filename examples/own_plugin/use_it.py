"""Uses the plugin's quantizer and attack by name, once it is installed."""

import qadv

data = qadv.create("dataset", "digits")
classifier = qadv.QuantizedClassifier.from_backbone(
    "mnist-cnn", weights="pow2:3", activations="relu6:4", input_shape=(1, 8, 8), image_size=8
)
trainer = qadv.create("trainer", "dq", classifier, beta=2e-3, lr=0.05)
trainer.fit(data.x_train, data.y_train, nb_epochs=10, batch_size=64)

attack = qadv.create("attack", "sign-noise", classifier, eps=0.1)
for name, images in (("benign", data.x_test), ("noisy", attack.generate(data.x_test, data.y_test))):
    accuracy = (classifier.predict(images).argmax(axis=1) == data.y_test).mean()
    print(f"Accuracy on {name} test examples: {accuracy:.1%}")
