# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
answers="$CLI_DATA/answers.jsonl"
try() {
    "$LLAVA" compare "$@"
    echo "exit $?"
}
# a model against itself
try $model --data "$answers" --torch-dtype float32 --cpu-level c
try $model $model --data "$answers" --torch-dtype float32 --cpu-level c
# how many threads there are and how a side was asked for make no difference
try $model --data "$answers" --a-torch-dtype=float32 --b-torch-dtype float32 --cpu-level c \
    --a-threads 1 --b-threads 3
# one bfloat16 model in two types: close, not equal
"$LLAVA" compare $model --data "$answers" --a-torch-dtype float32 --b-torch-dtype bfloat16 \
    --cpu-level c --json >"$WORK/types"
"$JSON_CHECK" <"$WORK/types"
awk '/"mean"/ {m = $2 + 0} /"max":/ {x = $2 + 0} /"tokens"/ {t = $2 + 0}
     END {print (0 < m && m <= x && x < 0.1) ? "close" : "not close", t}' "$WORK/types"
# without a template, and without pictures
echo '{"question": "Once upon", "answer": " a time"}' >"$WORK/plain.jsonl"
try models/tiny-qwen2-window --data "$WORK/plain.jsonl" --torch-dtype float32 --cpu-level c --raw
try models/tiny-qwen2-window --data "$WORK/plain.jsonl" --torch-dtype float32 --cpu-level c
# what batch has answered can be compared
"$LLAVA" batch $model --data "$CLI_DATA/questions.jsonl" --torch-dtype float32 --cpu-level c \
    --max-new-tokens 8 | grep -v '"error"\|nested' | sed "s|square.png|$CLI_DATA/square.png|g" >"$WORK/told.jsonl"
"$LLAVA" compare $model --data "$WORK/told.jsonl" --torch-dtype float32 | grep 'KL\|questions'
# what cannot be compared
try $model
try $model --data "$CLI_DATA/missing.jsonl"
try $model ./nowhere --data "$answers"
try $model models/llava-v1.5-llama-clip-pad --data "$answers"
try models/tiny-qwen2-window --data "$answers"
try $model a b --data "$answers"
try $model --data "$answers" --a-torch-dtype int8
try $model --data "$answers" --a-data x
try $model --data "$answers" --c-torch-dtype float32
refuse() {
    echo "$1" >"$WORK/line.jsonl"
    try $model --data "$WORK/line.jsonl"
}
refuse ''
refuse '{"question": "What?"}'
refuse '{"answer": "What?"}'
refuse '{"question": "What?", "answer": ""}'
refuse '{"question": "What?", "answer": "This.", "image": "missing.png"}'
refuse '{"question": "What?", "answer": "This.", "images": "missing.png"}'
refuse '{"question": "What?", "answer": "This.", "image": 3}'
refuse '{"question": "<image> <image>?", "answer": "This.", "image": "missing.png"}'
refuse '[1]'
refuse '{'
