# parakeet-ft in a container, for the CPU or, by two arguments, for GPUs:
#   docker build -t parakeet-ft .
#   docker build -t parakeet-ft:cuda --build-arg BASE=nvidia/cuda:13.0.1-base-ubuntu24.04 --build-arg TORCH=cu130 .
# docs/container.md has what follows. Python and all packages come by uv; torch's wheel holds CUDA's libraries.
ARG BASE=debian:bookworm-slim

FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM ${BASE}
# cpu, cu126, cu130: the index of torch wheels.
ARG TORCH=cpu
COPY --from=uv /uv /uvx /usr/local/bin/
# Certificates only: the wheels of soundfile and av hold libsndfile and ffmpeg. Debian removes old versions, so none is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
ENV UV_PYTHON_INSTALL_DIR=/opt/python \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:${PATH} \
    HF_HOME=/parakeet/.cache/huggingface \
    XDG_CACHE_HOME=/parakeet/.cache

# What changes seldom first: a change of the sources installs nothing anew.
WORKDIR /opt/parakeet-ft
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/var/cache/uv \
    UV_CACHE_DIR=/var/cache/uv uv venv --python 3.11 /opt/venv \
    && UV_CACHE_DIR=/var/cache/uv uv pip install --torch-backend "${TORCH}" --constraints constraints.txt \
       --requirements pyproject.toml --extra export --extra storage --extra ui
COPY README.md LICENSE ./
COPY conf conf
COPY data_prep data_prep
COPY recipes recipes
COPY parakeet_ft parakeet_ft
RUN --mount=type=cache,target=/var/cache/uv \
    UV_CACHE_DIR=/var/cache/uv uv pip install --no-deps .

# Runs, data and caches lie here: mount a folder of yours. Any user may write.
RUN useradd --uid 10001 --create-home parakeet && mkdir -p /parakeet && chmod 1777 /parakeet
WORKDIR /parakeet
USER 10001
ENTRYPOINT ["parakeet-ft"]
CMD ["--help"]
