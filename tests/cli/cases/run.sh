# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
common="--torch-dtype float32 --cpu-level c --threads 1 --max-new-tokens 12"
"$LLAVA" run $model 'What is shown?' --image "$CLI_DATA/square.png" $common
echo "exit $?"
echo 'What is shown?' | tr -d '\n' | "$LLAVA" run $model - --image "$CLI_DATA/square.png" $common
"$LLAVA" run $model '<image>' --raw --image "$CLI_DATA/square.png" $common
"$LLAVA" run $model 'Hello' $common --ignore-eos --keep-special-tokens
"$LLAVA" run $model 'Hello' $common --num-beams 3
"$LLAVA" run $model 'Hello' $common --temperature 0.7 --seed 7 >"$WORK/a"
"$LLAVA" run $model 'Hello' $common --temperature 0.7 --seed 7 >"$WORK/b"
cmp "$WORK/a" "$WORK/b" && echo 'the same seed, the same answer'
"$LLAVA" run $model 'Hello' $common --repetition-penalty 1.3 --no-repeat-ngram-size 2
# times differ from run to run
"$LLAVA" run $model 'What is shown?' --image "$CLI_DATA/square.png" $common --json |
    sed 's/\(_ms\|_second\)": [0-9.e+-]*/\1": TIME/'
"$LLAVA" run $model 'Hello' $common --num-beams 2 --json | sed 's/\(_ms\|_second\)": [0-9.e+-]*/\1": TIME/'
"$LLAVA" run $model 'Hello' $common --stats 2>&1 >"$WORK/answer" | sed 's/[0-9.]* ms/TIME/g; s/[0-9.]* tokens\/s/RATE/g'
