"""`.tflite` files as networks, values from LiteRT and gradients from a twin; and networks as `.tflite` files."""
