# The image of a worker: `make image ACCELERATOR=gpu`, `make push IMAGE=…`. Each ACCELERATOR (cpu, gpu or tpu) has its own lock.
#
# The base is pinned by a version tag. `FROM python@sha256:…` would pin it exactly.
#
# Behind a proxy or a mirror, configure pip with build secrets, which leave no trace in the image:
#   make image BUILD_FLAGS="--secret id=pip_conf,src=pip.conf --secret id=ca_certificates,src=ca.crt"
# with `cert = /run/secrets/ca_certificates` in pip.conf.
FROM python:3.11-slim-bookworm AS dependencies
ARG ACCELERATOR=cpu
COPY requirements-${ACCELERATOR}.lock /opt/requirements.lock
# --no-deps: a lock is complete, and pip would install tensorflow over tensorflow-tpu. TensorFlow's C++ headers (430 MB) are removed.
# Python files are compiled here because a read-only root cannot store the result. unchecked-hash: the compiled files stay valid
# even if a build resets all files' times.
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_certificates \
    PIP_CONFIG_FILE=/run/secrets/pip_conf \
    python -m pip install --no-cache-dir --progress-bar=off --no-compile --no-deps --requirement /opt/requirements.lock && \
    packages="$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
    rm -r "$packages/tensorflow/include" && \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages"

FROM dependencies AS package
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY k8s k8s
COPY launch launch
COPY trainer trainer
RUN python -m pip install --no-cache-dir --no-compile --no-deps --no-build-isolation --no-index --target=/opt/poster-trainer . && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/poster-trainer

FROM dependencies
# As in k8s/base/job.yaml, only /tmp has to be writable. GKE and Vertex AI mount the driver's libraries under /usr/local/nvidia;
# elsewhere that folder does not exist.
ENV HOME=/tmp \
    TMPDIR=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONPATH=/opt/poster-trainer \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64
COPY --from=package /opt/poster-trainer /opt/poster-trainer
USER 1000:1000
# The build fails if the image cannot run a small job from start to end. It runs on the CPU, as builders have no GPU or TPU.
# TPU_LIBRARY_PATH: without a TPU, Google's library would ask a metadata server for minutes. The last line empties /tmp.
RUN export TPU_LIBRARY_PATH=/dev/null && \
    python -m trainer.demo --output=/tmp/films --films=32 && \
    python -m trainer.prepare --csv=/tmp/films/films.csv --images=/tmp/films --output=/tmp/data --height=48 --width=32 && \
    python -m trainer.guard --data_dir=/tmp/data --job_dir=/tmp/job --strategy=one_device \
        --model=cnn --batch_size=8 --max_steps=1 && \
    find /tmp -mindepth 1 -delete
ENTRYPOINT ["python", "-m", "trainer.guard"]
