#!/usr/bin/env bash
# Writes the typed stubs of protos/tunewright/v1 to the folder given (protos/gen by default).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/gen}
python=${PYTHON:-python}
rm -rf "$out/tunewright" && mkdir -p "$out"
"$python" -m grpc_tools.protoc -I "$here" \
  --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" --mypy_grpc_out="$out" \
  "$here"/tunewright/v1/*.proto
touch "$out/tunewright/v1/__init__.py" "$out/tunewright/v1/py.typed"
