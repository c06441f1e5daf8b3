"""Models out: .nemo, ONNX, transformers, each checked against the model it came from."""
