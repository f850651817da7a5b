#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what compare.py compares with into a virtual environment of its own (about 6 GB).
#
#   bench/peers/install.sh DIR
set -eu
python3 -m venv "$1"
"$1/bin/pip" install --quiet numpy torch transformers openvino openvino-genai
# built from source for this processor
CMAKE_ARGS=-DGGML_NATIVE=ON "$1/bin/pip" install --quiet llama-cpp-python ||
    echo "llama-cpp-python could not be built; the comparisons leave it out"
