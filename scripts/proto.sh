#!/bin/bash
# Generates the Python code of the wire contract. CI runs it elsewhere and fails when that differs from the tree.
#
# The generators have an environment of their own: they are the oldest that we support, because generated code refuses a
# runtime that is older than its generator, and they would hold back protobuf for everything else.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${GESTALT_PROTO_TOOLS:-$PWD/.run/proto}
wanted="grpcio-tools==1.62.3 mypy-protobuf==3.6.0 setuptools<81"
if [ "$(cat "$tools/.wanted" 2>/dev/null)" != "$wanted" ] || ! "$tools/bin/python" -c '' 2>/dev/null; then
  rm -rf "$tools"
  mkdir -p "$(dirname "$tools")"
  "$(scripts/find-python)" -m venv "$tools"
  # shellcheck disable=SC2086 - one word a package
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check $wanted </dev/null
  echo "$wanted" >"$tools/.wanted"
fi
PATH="$tools/bin:$PATH"
rm -f proto/v1/*_pb2*.py proto/v1/*_pb2*.pyi
python -m grpc_tools.protoc -Igestalt/proto=proto \
  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. \
  gestalt/proto/v1/spec.proto gestalt/proto/v1/model.proto gestalt/proto/v1/api.proto gestalt/proto/v1/agent.proto
