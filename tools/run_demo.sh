#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run_demo.sh LLAVA QUESTION: asks the bundled model about the bundled picture.
set -eu
llava=$1
question=$2
model=models/demo
picture=models/demo/pictures/dog.png
echo "model:    $model"
echo "picture:  $picture"
echo "question: $question"
printf 'answer:   '
exec "$llava" run "$model" --image "$picture" --stats "$question"
