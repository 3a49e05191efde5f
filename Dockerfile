# One image for each service: docker build --target gateway . (docker compose builds them all).
# Versions and hashes come from requirements.lock; which of its packages an image gets, from
# deploy/packages.json. Nothing here needs BuildKit, and training, with torch, comes last: who builds a
# service never builds it.

FROM python:3.11-slim AS python

# --- packages: one virtual environment for each image ----------------------------------------------

FROM python AS packages
# where pip finds packages, if not where it looks by itself; empty ones count as unset
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_TRUSTED_HOST=
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY requirements.lock ./
COPY deploy/packages.py deploy/packages.json deploy/
# the packages that every process needs; the stages below add their own
RUN python deploy/packages.py cli > cli.lock \
 && python -m pip --python /opt/venv/bin/python install --no-deps --require-hashes -r cli.lock

FROM packages AS packages-gateway
RUN python deploy/packages.py gateway > gateway.lock \
 && python -m pip --python /opt/venv/bin/python install --no-deps --require-hashes -r gateway.lock

FROM packages AS packages-features
RUN python deploy/packages.py features > features.lock \
 && python -m pip --python /opt/venv/bin/python install --no-deps --require-hashes -r features.lock

FROM packages AS packages-inference
RUN python deploy/packages.py inference > inference.lock \
 && python -m pip --python /opt/venv/bin/python install --no-deps --require-hashes -r inference.lock \
 && find /opt/venv -type d -name tests -prune -exec rm -rf {} +

FROM packages AS packages-notifier
RUN python deploy/packages.py notifier > notifier.lock \
 && python -m pip --python /opt/venv/bin/python install --no-deps --require-hashes -r notifier.lock

FROM packages AS packages-venue
RUN python deploy/packages.py venue > venue.lock \
 && python -m pip --python /opt/venv/bin/python install --no-deps --require-hashes -r venue.lock \
 && find /opt/venv -type d -name tests -prune -exec rm -rf {} +

# --- code, compiled: containers start faster and never write into their image -----------------------

FROM python AS code
WORKDIR /app
COPY . .
RUN rm -rf deploy requirements.lock pyproject.toml \
 && python -m compileall -q --invalidation-mode unchecked-hash .

# --- what all images have in common -----------------------------------------------------------------

FROM python AS runtime
# the folders of var/ are where volumes are mounted: a new volume takes over their owner
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app --shell /usr/sbin/nologin tradeguard \
 && mkdir -p /app/var/gateway /app/var/venue /app/var/logs /app/bundles \
 && chown -R tradeguard:tradeguard /app/var
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001

# --- the images -------------------------------------------------------------------------------------

FROM runtime AS gateway
COPY --from=packages-gateway /opt/venv /opt/venv
COPY --from=code /app/shared shared
COPY --from=code /app/cli/health.py cli/health.py
COPY --from=code /app/services/gateway services/gateway
CMD ["python", "-m", "services.gateway.main"]

FROM runtime AS features
# one row at a time: more threads only wait for each other
ENV OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
COPY --from=packages-features /opt/venv /opt/venv
COPY --from=code /app/shared shared
COPY --from=code /app/cli/health.py cli/health.py
COPY --from=code /app/services/features services/features
CMD ["python", "-m", "services.features.main"]

FROM runtime AS inference
# one row at a time: more threads only wait for each other
ENV OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# LightGBM's library asks for it, and the slim image does not have it
USER root
RUN apt-get update -q && apt-get install -q -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
USER 10001:10001
COPY --from=packages-inference /opt/venv /opt/venv
COPY --from=code /app/shared shared
COPY --from=code /app/cli/health.py cli/health.py
COPY --from=code /app/services/inference services/inference
CMD ["python", "-m", "services.inference.main"]

FROM runtime AS executor
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /app/shared shared
COPY --from=code /app/cli/health.py cli/health.py
COPY --from=code /app/services/executor services/executor
CMD ["python", "-m", "services.executor.main"]

FROM runtime AS notifier
COPY --from=packages-notifier /opt/venv /opt/venv
COPY --from=code /app/shared shared
COPY --from=code /app/cli/health.py cli/health.py
COPY --from=code /app/services/notifier services/notifier
CMD ["python", "-m", "services.notifier.main"]

# the simulated venue
FROM runtime AS venue
COPY --from=packages-venue /opt/venv /opt/venv
COPY --from=code /app/shared shared
COPY --from=code /app/cli cli
COPY --from=code /app/venue venue
# its first line holds the secrets to get in; they stand in ready.json too, and have no place in a log
CMD ["sh", "-c", "exec python -m cli.main venue >/dev/null"]

# the operator's commands: docker compose run --rm cli status
FROM runtime AS cli
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /app .
ENTRYPOINT ["python", "-m", "cli.main"]
CMD ["--help"]

# --- training: with torch, which no service needs ---------------------------------------------------

FROM packages AS packages-training
# Another source has another build of torch: this one has builds for CPUs, at a tenth of the size. Empty:
# where pip looks by itself (as on ARM, where every build is one for CPUs).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=torch==2.13.0
RUN python deploy/packages.py training > training.lock \
 && python -m pip --python /opt/venv/bin/python install --no-deps --require-hashes -r training.lock \
 && python -m pip --python /opt/venv/bin/python install --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"

FROM runtime AS training
USER root
RUN apt-get update -q && apt-get install -q -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
USER 10001:10001
COPY --from=packages-training /opt/venv /opt/venv
COPY --from=code /app .
ENTRYPOINT ["python", "-m", "cli.main"]
CMD ["train", "--out", "bundles/default"]
