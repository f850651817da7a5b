#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes a checkpoint of about 220 MB and measures what llava info foresees against what a run takes:
# weights as they are stored, weights that have to be converted, and an adapter that is merged.
#
#   run_memory.sh PYTHON LLAVA TEST_MEMORY
set -eu
tools=$(cd "$(dirname "$0")/../../tools" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1" "$tools/make_checkpoint.py" "$work/stored" --preset medium --tower none --tied
"$3" "$2" "$work/stored" --torch-dtype bfloat16
"$1" "$tools/make_checkpoint.py" "$work/converted" --preset medium --layers 6 --tower none --tied \
    --dtype float32
"$3" "$2" "$work/converted" --torch-dtype bfloat16
"$1" "$tools/make_adapter.py" "$work/adapter" --base "$work/stored" --rank 16
"$3" "$2" "$work/adapter" --model-base "$work/stored" --torch-dtype bfloat16
