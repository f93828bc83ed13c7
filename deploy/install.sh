#!/bin/sh
# Install the server into a virtual environment: install.sh FOLDER. The Dockerfiles and the check run this script.
# TORCH_INDEX: the package index of torch, such as https://download.pytorch.org/whl/cpu; the default index otherwise.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
target=$1
"${PYTHON:-python3}" -m venv "$target"
torch="torch==$(sed -n 's/^torch==//p' "$source/constraints.txt")"
"$target/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
    ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
"$target/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check \
    -c "$source/constraints.txt" "$source[server]"
"$target/bin/sarsteer" --version
