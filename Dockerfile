# maquette on the CPU. Build and use:
#   docker build -t maquette .
#   mkdir -p runs
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/work/runs" maquette run "a red mushroom"
# (Docker would make the folder root's own, and files in it that are nobody's to change.)
# With a GPU: see Dockerfile.cuda.
FROM python:3.11-slim

# pymeshlab draws nothing here, but its library is linked against OpenGL.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libgomp1 libopengl0 libegl1 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/maquette
COPY . .
# torch for the CPU alone is a tenth of the one with CUDA; PyTorch's own page tells where it lies:
#   docker build --build-arg PIP_OPTIONS="--extra-index-url ADDRESS" -t maquette .
ARG PIP_OPTIONS=""
RUN pip install --no-cache-dir $PIP_OPTIONS -c constraints.txt . \
 && useradd --create-home --uid 1000 maker && mkdir -p /work/runs && chown -R 1000 /work

USER 1000
# Of any other user who is asked for, too.
ENV HOME=/tmp USER=maker
WORKDIR /work
VOLUME /work/runs
ENTRYPOINT ["maquette"]
CMD ["--help"]
