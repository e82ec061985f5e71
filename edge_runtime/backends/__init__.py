"""Engines that the device builds for itself: NVIDIA's TensorRT, by its own Python package and without onnxruntime.

``keys`` says what an engine was built from and for, ``cache`` keeps engines on the device, ``profiles`` the sizes that
they take, ``tensorrt_build`` builds, ``tensorrt`` runs, ``cuda`` holds the device's memory, ``opening`` puts these
together and chooses between them and onnxruntime's TensorRT provider. TensorRT and CUDA are imported when they are
needed, never before.
"""
