# X1 in a container, for those who rent a machine by image. Build it and push it where it is rented:
#   docker build -t x1 .
#   docker run --init --gpus all -v "$PWD/runs:/x1/runs" -v "$PWD/data:/x1/data" x1 \
#       x1 train --out runs/NAME
# Process 1 of the container is when the machine's meter starts. `--user x1` runs without root.
FROM python:3.11-slim-bookworm

# torch.compile builds C++; make sets the project up; sshd for `x1 launch --on ssh://…`.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make openssh-server \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /x1
COPY Makefile pyproject.toml constraints.txt README.md LICENSE LICENSE-TEXT ./
COPY src ./src

# TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu" where there is no NVIDIA card.
ARG TORCH_ARGS=""
RUN make .make/core TORCH_ARGS="$TORCH_ARGS" && rm -rf /root/.cache

RUN useradd --create-home x1 && mkdir runs data && chown x1 . runs data
ENV PATH=/x1/.venv/bin:$PATH
CMD ["x1", "--help"]
