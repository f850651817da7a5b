# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
common="--torch-dtype float32 --cpu-level c --max-new-tokens 40 --ignore-eos"
"$LLAVA" run $model 'Hello' $common --json | "$JSON_CHECK"
"$LLAVA" run $model 'Hello' $common --json --keep-special-tokens --temperature 5 --seed 3 | "$JSON_CHECK"
"$LLAVA" info $model --json --image-size 100x100 | "$JSON_CHECK"
"$LLAVA" info ./nowhere --json 2>&1 >"$WORK/info"
"$JSON_CHECK" <"$WORK/info"
"$LLAVA" templates --json | "$JSON_CHECK"
"$LLAVA" templates qwen_1_5 --json | "$JSON_CHECK"
printf 'a\377\376b\nc\300\200\nd\355\240\200\n' | "$LLAVA" tokenize $model | "$JSON_CHECK" --lines
"$LLAVA" tokenize $model --decode '128 129 130' '200 201' | "$JSON_CHECK" --lines
"$LLAVA" batch $model --data "$CLI_DATA/questions.jsonl" $common | "$JSON_CHECK" --lines
"$LLAVA" verify --json "$CLI_DATA/missing.json" 2>"$WORK/errors" | "$JSON_CHECK"
for case in traces/tiny-qwen2-window/*.json; do
    "$LLAVA" verify --json --cpu-level c --reference . "$case" | "$JSON_CHECK"
done
