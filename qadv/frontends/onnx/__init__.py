"""Networks that are ONNX files: values from the runtime, gradients from a twin that is made from the file's graph."""
