# what is reported, not how fast it was
shape=$CLI_DATA/tiny-shape.json
sizes="--tiles 1,3 --prompts 7,600 --contexts 5 --repeat 1 --threads 2"
"$LLAVA" bench --dummy "$shape" $sizes --torch-dtype bfloat16 --json >"$WORK/report"
echo "exit $?"
"$JSON_CHECK" <"$WORK/report"
grep -o -e '"stage": "[^"]*"' -e '"size": [0-9]*' -e '"unit": "[^"]*"' "$WORK/report"
grep -c '"fraction"' "$WORK/report"
"$LLAVA" bench --dummy "$shape" $sizes --torch-dtype float32 --image "$CLI_DATA/square.png" |
    sed 1d | cut -c1-37
echo '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48,
  "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 6,
  "vocab_size": 50}' >"$WORK/plain.json"
"$LLAVA" bench --dummy "$WORK/plain.json" --prompts 3 --contexts 0 --repeat 2 --cpu-time --json >"$WORK/report"
grep -o '"stage": "[^"]*"' "$WORK/report"
try() {
    "$LLAVA" bench "$@"
    echo "exit $?"
}
try
try model --dummy "$shape"
try --dummy "$shape" --prompts 1,x
try --dummy "$shape" --tiles -3
try --dummy "$shape" --repeat 0
try --dummy "$WORK/missing.json"
try --dummy "$CLI_DATA/square.png"
try --dummy "$shape" --overwrite-config '{"mm_vision_tower": "elsewhere/unknown"}'
try --dummy "$shape" --image "$CLI_DATA/broken.png" --tiles 0 --repeat 1 --json
