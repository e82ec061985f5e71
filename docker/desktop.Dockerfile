# Training, pruning, export and reports on an NVIDIA GPU (or without one). See docs/docker.md.
# PyTorch's wheels bring CUDA's libraries along, so the base image holds no second copy of them.
ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE} AS build
# The compiler is for ROAD's imputation in C; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-venv \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/roadworthy
WORKDIR /source
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY toolkit toolkit
COPY calibration calibration
COPY export export
COPY edge_runtime edge_runtime
ARG EXTRAS=desktop,serve,tensorboard
# A mirror of the package registry, or a certificate for it, comes in as a secret and leaves no trace in the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    /opt/roadworthy/bin/pip install --no-cache-dir --constraint constraints.txt setuptools \
    && /opt/roadworthy/bin/pip install --no-cache-dir --constraint constraints.txt --no-build-isolation ".[${EXTRAS}]" \
    && /opt/roadworthy/bin/python -I -c 'from edge_runtime.metrics.compiled import library; assert library()' \
    && /opt/roadworthy/bin/pip uninstall --yes pip

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /workspace --shell /usr/sbin/nologin roadworthy \
    && install --directory --mode 0755 --owner 10001 --group 10001 /workspace
COPY --from=build /opt/roadworthy /opt/roadworthy
# Caches of data sets, calibration and CUDA kernels go where the work is: the rest is read-only.
ENV PATH=/opt/roadworthy/bin:$PATH \
    HOME=/workspace \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/workspace/.cache \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /workspace
VOLUME /workspace
# Jobs that end, no service: there is nothing to ask.
HEALTHCHECK NONE
ENTRYPOINT ["roadworthy"]
CMD ["--help"]
