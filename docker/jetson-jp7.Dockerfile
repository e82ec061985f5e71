# The device runtime on Jetson with JetPack 7 (ARM64 like any server, Python 3.12): Orin from JetPack 7.2, Thor.
# The image brings TensorRT 10.16; it must not be one of the -igpu images, which fail there. See docs/docker.md.
ARG BASE=nvcr.io/nvidia/tensorrt:26.05-py3

FROM ${BASE} AS build
# The compiler is for ROAD's imputation in C; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-venv \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*
# TensorRT's Python package is the base image's own.
RUN python3 -m venv --system-site-packages /opt/roadworthy
WORKDIR /source
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY toolkit toolkit
COPY calibration calibration
COPY export export
COPY edge_runtime edge_runtime
ARG EXTRAS=serve,trust,vehicle
# The package registry's build computes on the CPU. One for the GPU takes its place: a version, or the address of a wheel.
ARG ONNXRUNTIME=onnxruntime==1.31.1
# Engines of TensorRT's own need CUDA from Python, of the base image's major version.
ARG CUDA_BINDINGS=cuda-bindings==13.2.0
# A mirror of the package registry, or a certificate for it, comes in as a secret and leaves no trace in the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    /opt/roadworthy/bin/pip install --no-cache-dir --constraint constraints.txt setuptools \
    && /opt/roadworthy/bin/pip install --no-cache-dir --constraint constraints.txt --no-build-isolation ".[${EXTRAS}]" \
    && grep --invert-match onnxruntime constraints.txt > others.txt \
    && /opt/roadworthy/bin/pip install --no-cache-dir --constraint others.txt "${ONNXRUNTIME}" "${CUDA_BINDINGS}" \
    && /opt/roadworthy/bin/python -I -c 'from edge_runtime.metrics.compiled import library; assert library()' \
    && /opt/roadworthy/bin/pip uninstall --yes setuptools pip

FROM ${BASE}
# The loop and the page run as roadworthy. Who installs bundles is somebody else, so that neither can change them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --groups video --no-create-home --home-dir /var/lib/roadworthy/log \
        --shell /usr/sbin/nologin roadworthy \
    && useradd --uid 10002 --user-group --no-create-home --home-dir /var/lib/roadworthy \
        --shell /usr/sbin/nologin installer \
    && install --directory --mode 0755 /var/lib/roadworthy \
    && install --directory --mode 0755 --owner 10001 --group 10001 /var/lib/roadworthy/log /var/lib/roadworthy/cache \
    && install --directory --mode 0755 --owner 10002 --group 10002 /var/lib/roadworthy/bundles /var/lib/roadworthy/trust \
    && install --directory --mode 0700 --owner 10001 --group 10001 /run/roadworthy
COPY --from=build /opt/roadworthy /opt/roadworthy
ENV PATH=/opt/roadworthy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/lib/roadworthy/cache \
    XDG_DATA_HOME=/var/lib \
    XDG_RUNTIME_DIR=/run \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 10001:10001
WORKDIR /var/lib/roadworthy
VOLUME /var/lib/roadworthy
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python", "-m", "edge_runtime.serve.probe"]
ENTRYPOINT ["roadworthy"]
CMD ["serve"]
