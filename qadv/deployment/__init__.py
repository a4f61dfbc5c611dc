"""Networks as files for other programs: packed weights and ONNX graphs."""
