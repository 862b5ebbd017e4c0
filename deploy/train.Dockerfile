# What kubernetes.yaml and vertex.yaml run:
#
#   docker build -f deploy/train.Dockerfile -t REGION-docker.pkg.dev/PROJECT/unet/train:0.1.0 .
#
# Never built by us: no registry of images is within reach.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends tini \
  && rm -rf /var/lib/apt/lists/*
# Where GKE and Vertex AI put the driver: without these TensorFlow finds no GPU, says so
# in a message that nobody sees, and trains on the processor.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib \
  PATH=/usr/local/nvidia/bin:$PATH \
  NVIDIA_VISIBLE_DEVICES=all \
  NVIDIA_DRIVER_CAPABILITIES=compute,utility \
  CUDA_CACHE_PATH=/var/cache/cuda
WORKDIR /app
COPY requirements/gpu.lock requirements/
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements/gpu.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY unet_tfrecords unet_tfrecords
COPY preprocess preprocess
COPY trainer trainer
COPY configs configs
COPY doctor doctor
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
