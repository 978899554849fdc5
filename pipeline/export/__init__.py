"""A trained network as a file that runs without this project: ONNX, TorchScript or PyTorch's exported program."""
