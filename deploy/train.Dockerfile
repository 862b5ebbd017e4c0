# What kubernetes.yaml and vertex.yaml run:
#
#   docker build -f deploy/train.Dockerfile -t REGION-docker.pkg.dev/PROJECT/unet/train:0.1.0 .
#
# Never built by us: no registry of images is within reach.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends tini \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements/gpu.lock requirements/
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements/gpu.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY preprocess preprocess
COPY trainer trainer
COPY configs configs
COPY doctor doctor
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
