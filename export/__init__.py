"""From a PyTorch model or an ONNX file to what the vehicle needs: gradient graphs, parity checks, bundles."""
