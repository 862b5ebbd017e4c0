# Beam workers with everything installed, for Dataflow, Flink and Spark:
#
#   docker build -f deploy/beam.Dockerfile -t REGION-docker.pkg.dev/PROJECT/unet/beam:0.1.0 .
#   ./launch.sh preprocess ... --sdk_container_image=THAT --sdk_location=container
#
# Never built by us: no registry of images is within reach. Beam's version is that of
# requirements/worker.txt, Python's that of the machine that starts the job.
FROM apache/beam_python3.11_sdk:2.77.0
WORKDIR /app
COPY requirements/worker.txt requirements/
RUN pip install --no-cache-dir -r requirements/worker.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY unet_tfrecords unet_tfrecords
COPY preprocess preprocess
COPY trainer trainer
COPY configs configs
COPY doctor doctor
RUN pip install --no-cache-dir --no-deps .
# Otherwise each worker makes a virtual environment of its own at every start.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
