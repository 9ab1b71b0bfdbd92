# One image for authz, meter, control and the commands. Every package comes from the hash-pinned lock files. The final stage has
# neither pip nor a compiler, and nothing in it is written at run time. No mounts, no heredocs and no frontend, so that every
# builder can build it.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore SOURCE_DATE_EPOCH=0
WORKDIR /src
RUN python -m venv /opt/build && python -m venv --without-pip /opt/gateway
COPY requirements-build.lock requirements-image.lock ./
RUN /opt/build/bin/pip install -q --require-hashes -r requirements-build.lock \
 && /opt/build/bin/pip --python /opt/gateway/bin/python install -q --no-compile --only-binary :all: --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY envoy envoy
COPY migrations migrations
COPY gateway gateway
COPY authz authz
COPY meter meter
COPY ops ops
# Bytecode that is validated by content instead of the build time, so that a read-only container need not recompile it.
RUN /opt/build/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/build/bin/pip --python /opt/gateway/bin/python install -q --no-compile --no-deps --no-index dist/*.whl \
 && /opt/gateway/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/gateway/lib

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="neuronetz-gateway" \
      org.opencontainers.image.description="The secure multi-tenant front for Ollama clusters" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The Python of the base image loses its package installers too.
RUN find /usr -depth \( -name pip -o -name 'pip-*' -o -name 'pip3*' -o -name 'pip[0-9]*' -o -name ensurepip \
      -o -name setuptools -o -name 'setuptools-*' -o -name wheel -o -name 'wheel-*' \) -exec rm -rf {} + \
 && groupadd --gid 10001 gateway \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gateway
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /
ENTRYPOINT ["neuronetz-gateway"]
CMD ["--help"]
