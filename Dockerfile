# sanac on a processor; for a GPU build with --build-arg EXTRA=gpu on an image that has CUDA's libraries.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG EXTRA=cpu
RUN useradd --create-home sanac
COPY pyproject.toml README.md LICENSE /src/
COPY sanac /src/sanac
RUN pip install --no-cache-dir -c /src/sanac/data/constraints.txt "/src[${EXTRA}]" && rm -r /src
USER sanac
WORKDIR /data
# SIGTERM is passed on to the stage that runs, which saves its state and ends with 75
ENTRYPOINT ["sanac"]
