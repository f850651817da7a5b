# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
plan() {
    "$LLAVA" info "$@" >"$WORK/plan"
    echo "exit $?"
    sed -n '/^placement/,$p' "$WORK/plan"
}
plan $model --device-map cpu
plan $model --max-memory '{"cpu": "500KiB"}'
plan $model --max-memory '{"cpu": "500KiB"}' --torch-dtype float32
plan models/llava-v1.5-llama-clip-pad --max-memory '{"cpu": "500KiB"}' --torch-dtype bfloat16
plan $model --device-map '{"": "cpu", "model.vision_tower": "disk", "lm_head": "disk"}'
plan $model --device-map '{"": "cpu", "model.layers.7": "disk"}'
plan $model --device-map '{"model.layers": "cpu"}'
plan $model --device-map cpu --max-memory '{"cpu": 700000}'
plan $model --device-map auto --max-memory '{"0": "200KiB", "1": "300KiB", "cpu": "1GiB"}'
plan $model --device-map cuda
plan $model --device-map '{"": 0}'
plan $model --device-map balanced_low_1
plan $model --max-memory '{"cpu": "much"}'
plan $model --max-memory '{"tpu": 1}'
"$LLAVA" info $model --json --device-map balanced --max-memory '{"cpu": "1MiB"}' | "$JSON_CHECK"
# a map changes where weights lie, not what comes out
common="--torch-dtype float32 --cpu-level c --max-new-tokens 4 --ignore-eos"
"$LLAVA" run $model Hello $common >"$WORK/plain"
"$LLAVA" run $model Hello $common --device-map '{"": "cpu", "model.layers": "disk"}' >"$WORK/mapped"
cmp "$WORK/plain" "$WORK/mapped" && echo 'the same answer'
"$LLAVA" run $model Hello --device-map '{"": 0}'
echo "exit $?"
for name in eager sdpa none flash_attention_2 flash; do
    "$LLAVA" info $model --attn-implementation $name | grep -A1 attention
    "$LLAVA" info $model --attn-implementation $name >"$WORK/plan" 2>&1 || echo "exit $?"
done
