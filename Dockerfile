# A workstation in a container: `qat` with all of libtorch, its CUDA half included. See docs/gpu-workstation.md for what that
# does today, and what not yet.
#
#   docker build -t qat .
#   docker run --rm -it -v "$PWD/runs:/qat/runs" qat qat train --preset digits --out runs/digits
FROM rust:1.95-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The version that `tch` is pinned to.
RUN python3 -m venv /opt/torch && /opt/torch/bin/pip install --no-cache-dir torch==2.11.0
RUN ln -s /opt/torch/lib/python3*/site-packages/torch /opt/libtorch
ENV LIBTORCH=/opt/libtorch

WORKDIR /qat
COPY . .
RUN cargo install --locked --path qat-trainer

CMD ["qat", "--help"]
