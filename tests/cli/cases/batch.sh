# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
common="--data $CLI_DATA/questions.jsonl --torch-dtype float32 --cpu-level c --max-new-tokens 8"
"$LLAVA" batch $model $common
echo "exit $?"
"$LLAVA" batch $model $common --output "$WORK/all"
"$LLAVA" batch $model $common --parallel 1 --output "$WORK/single"
cmp "$WORK/all" "$WORK/single" && echo 'the same one after the other'
# a batch that was cut off in the middle of a line goes on there
head -c 500 "$WORK/all" >"$WORK/cut"
"$LLAVA" batch $model $common --output "$WORK/cut"
cmp "$WORK/all" "$WORK/cut" && echo 'the same after going on'
"$LLAVA" batch $model $common --output "$WORK/all"
cmp "$WORK/all" "$WORK/single" && echo 'nothing to do'
# little room: questions wait for each other
"$LLAVA" batch $model $common --context-tokens 256 --output "$WORK/tight"
cmp "$WORK/all" "$WORK/tight" && echo 'the same in little room'
echo '{"question": "another file"}' >"$WORK/other.jsonl"
"$LLAVA" batch $model --data "$WORK/other.jsonl" --output "$WORK/all"
echo "exit $?"
# from a pipe
mkfifo "$WORK/pipe"
cp "$CLI_DATA"/*.png "$WORK"
cat "$CLI_DATA/questions.jsonl" >"$WORK/pipe" &
"$LLAVA" batch $model $common --data "$WORK/pipe" --output "$WORK/piped"
sed -i "s|$WORK|$CLI_DATA|" "$WORK/piped" # paths in messages
cmp "$WORK/all" "$WORK/piped" && echo 'the same from a pipe'
