#!/bin/bash
# Generates the Python code of the wire contract. CI runs it and fails when the tree differs afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
rm -f proto/v1/*_pb2*.py proto/v1/*_pb2*.pyi
python -m grpc_tools.protoc -Igestalt/proto=proto \
  --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. \
  gestalt/proto/v1/spec.proto gestalt/proto/v1/model.proto gestalt/proto/v1/api.proto gestalt/proto/v1/agent.proto
