# syntax=docker/dockerfile:1
# One image for every part of the service: what it does is its command (serve, launch, db upgrade, …), or ray's.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# What the program needs, from the list in pyproject.toml alone: a change of the source reinstalls nothing.
FROM ${PYTHON_IMAGE} AS dependencies
# torch and torchvision must come from one index to fit each other. For GPUs: https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/automl-prune
ENV PATH=/opt/automl-prune/bin:$PATH
RUN pip install "torch>=2.6" "torchvision>=0.21" --index-url "${TORCH_INDEX}"
WORKDIR /build
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['postgres'], sep='\n')" > requirements.txt \
    && pip list --format freeze > installed.txt \
    && pip install -r requirements.txt -c installed.txt

FROM ${PYTHON_IMAGE} AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY automl_prune automl_prune
COPY search_spaces search_spaces
COPY services services
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="automl-prune" org.opencontainers.image.licenses="Apache-2.0"
# The folders belong to the user, and so do volumes that are mounted there for the first time.
RUN groupadd --gid 10001 pruner \
    && useradd --create-home --uid 10001 --gid 10001 --shell /usr/sbin/nologin pruner \
    && install -d -o pruner -g pruner /var/lib/automl-prune /data /weights
COPY --from=dependencies /opt/automl-prune /opt/automl-prune
ENV PATH=/opt/automl-prune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AUTOML_PRUNE_HOME=/var/lib/automl-prune \
    AUTOML_PRUNE_DATA_ROOT=/data \
    AUTOML_PRUNE_WEIGHTS_ROOT=/weights \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --no-index /wheels/*.whl

USER 10001:10001
WORKDIR /var/lib/automl-prune
VOLUME /var/lib/automl-prune
EXPOSE 8422
STOPSIGNAL SIGTERM
# Of the service; other commands bring a check of their own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8422/readyz', timeout=4)"]
ENTRYPOINT ["automl-prune"]
CMD ["serve"]
