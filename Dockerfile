# A server of a gallery in the folder that is mounted at /data:
#   docker build -t outfinder .
#   docker run --rm -v "$PWD:/data" outfinder index gallery catalogue.csv
#   docker run --rm -v "$PWD:/data" -p 8000:8000 outfinder
# With --build-arg TORCH_INDEX=URL, torch comes from that index: the one that pytorch.org names for the CPU saves 5 GB.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++
ARG TORCH_INDEX=
COPY . /src
RUN if [ -n "$TORCH_INDEX" ]; then pip wheel --no-cache-dir --wheel-dir /wheels --index-url "$TORCH_INDEX" torch torchvision; fi
RUN pip wheel --no-cache-dir --wheel-dir /wheels --find-links /wheels "/src[web]"

FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "outfinder[web]"
RUN useradd --create-home --uid 1000 outfinder
USER outfinder
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
ENTRYPOINT ["outfinder"]
CMD ["serve", "gallery", "--host", "0.0.0.0"]
