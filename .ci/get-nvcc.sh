#!/usr/bin/env bash
# Lays a working CUDA 13.0 compiler from PyPI wheels into a folder: 100 MB to download, 270 MB on disk, no root, no GPU.
#   usage: get-nvcc.sh DEST        afterwards DEST/bin/nvcc works
# The wheels are under NVIDIA's own licence: they are fetched where they are needed and never committed.
set -euo pipefail
dest=$(realpath -m "${1:?the folder to lay it into}")
python=${PYTHON:-python3}

# CUDA 13.0 on purpose: a later one writes PTX of a newer version, which drivers of the 13.0 line refuse.
wheels=(
  nvidia-cuda-nvcc==13.0.88    # nvcc, ptxas, fatbinary
  nvidia-nvvm==13.0.88         # cicc and libdevice, which the wheel above lacks
  nvidia-cuda-crt==13.0.88     # include/crt
  nvidia-cuda-runtime==13.0.96 # cuda_runtime.h
  nvidia-cuda-cccl==13.0.85    # nv/target, which cuda_fp16.h includes
)
pins=$(printf '%s ' "${wheels[@]}")
if [ "$(cat "$dest/.wheels" 2> /dev/null)" = "$pins" ]; then
  echo "nvcc is already in $dest"
  exit 0
fi

# What is there is replaced, so it must be this script's own: its marker is in it from the first moment.
if [ -e "$dest" ] && [ ! -e "$dest/.wheels" ] && { [ ! -d "$dest" ] || [ -n "$(ls -A "$dest")" ]; }; then
  echo "$dest holds something else; name an empty or a new folder" >&2
  exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$scratch/wheels" "${wheels[@]}"
# Python's own unzip loses the bits that make a file executable.
"$python" - "$scratch" << 'END'
import os, pathlib, sys, zipfile

scratch = pathlib.Path(sys.argv[1])
for wheel in sorted((scratch / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith("nvidia/cu13/") and not entry.is_dir():
                path = archive.extract(entry, scratch / "unpacked")
                os.chmod(path, (entry.external_attr >> 16) & 0o777 | 0o644)
END
rm -rf "$dest"
mkdir -p "$dest"
: > "$dest/.wheels"
mv "$scratch/unpacked/nvidia/cu13"/* "$dest"
chmod a+rx "$dest"/bin/* "$dest/nvvm/bin/cicc"
# nvcc.profile looks for libraries in lib64; the wheels put them in lib.
ln -sfn lib "$dest/lib64"
"$dest/bin/nvcc" --version | sed -n 4p
printf "%s" "$pins" > "$dest/.wheels"
