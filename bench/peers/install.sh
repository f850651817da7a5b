#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what compare.py compares with into a virtual environment of its own, and what exports
# models for OpenVINO GenAI, which needs older versions, into one inside it (about 12 GB).
#
#   bench/peers/install.sh DIR
set -eu
python3 -m venv "$1"
"$1/bin/pip" install --quiet numpy torch transformers openvino openvino-genai \
    onnx onnxscript onnxruntime pillow
# built from source for this processor
CMAKE_BUILD_PARALLEL_LEVEL=2 CMAKE_ARGS=-DGGML_NATIVE=ON \
    "$1/bin/pip" install --quiet llama-cpp-python ||
    echo "llama-cpp-python could not be built; the comparisons leave it out"
python3 -m venv "$1/export"
"$1/export/bin/pip" install --quiet optimum-intel
