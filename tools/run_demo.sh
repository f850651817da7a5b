#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run_demo.sh LLAVA QUESTION: asks the bundled model about the bundled picture.
set -eu
llava=$1
question=$2
model=models/demo
picture=models/demo/pictures/dog.png
if [ ! -f "$model/model.safetensors" ] || [ ! -f "$picture" ]; then
    # The tiny reference checkpoint is random: it shows the pipeline, not a sensible answer.
    model=tests/reference/data/models/llava-onevision-qwen-siglip
    picture=$(find tests/reference/data/traces/images -name '*.png' | sort | head -n 1)
    set -- --max-new-tokens 24
    echo "note: the trained demo model is not in this checkout; the model used here has random weights"
else
    set --
fi
echo "model:    $model"
echo "picture:  $picture"
echo "question: $question"
printf 'answer:   '
exec "$llava" run "$model" --image "$picture" --stats "$@" "$question"
