# syntax=docker/dockerfile:1
FROM python:3.11-slim

# Where torch comes from: empty takes the default index's build (with CUDA); name an index of CPU builds for a small image.
ARG TORCH_INDEX=

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    AUTOML_PRUNE_HOME=/var/lib/automl-prune RAY_AUTH_MODE=token

RUN pip install torch torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}

WORKDIR /opt/automl-prune
COPY pyproject.toml README.md LICENSE ./
COPY automl_prune automl_prune
COPY search_spaces search_spaces
COPY services services
RUN pip install . \
    && useradd --create-home --uid 10001 pruner \
    && install -d -o pruner -g pruner /var/lib/automl-prune

USER pruner
VOLUME /var/lib/automl-prune
EXPOSE 8422
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8422/readyz', timeout=2)"]
CMD ["automl-prune", "serve"]
