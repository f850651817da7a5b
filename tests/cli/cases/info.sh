# needs models/llava-v1.5-llama-clip-pad
"$LLAVA" info models/llava-onevision-qwen-siglip --image-size 640x480 --context-tokens 1000
echo "exit $?"
"$LLAVA" info models/llava-v1.5-llama-clip-pad --image-size 640x480 --torch-dtype float32
"$LLAVA" info models/tiny-qwen2-window --image-size 640x480
echo "exit $?"
"$LLAVA" info models/tiny-qwen2-window --json | sed -n '/"memory"/,/}/p; /"session"/,/}/p'
for file in formats/broken/index/good/model.safetensors.index.json formats/broken/torch/expanded.bin \
    formats/broken/torch/global-os-system.bin formats/broken/tokenizer/json-good/tokenizer.json \
    towers/clip-56/preprocessor_config.json towers/clip-56 formats/broken/index/shard-absent; do
    "$LLAVA" info $file
    echo "exit $?"
done
"$LLAVA" info formats/broken/safetensors/good.safetensors --json
"$LLAVA" info formats/broken/safetensors/hole.safetensors --json
echo "exit $?"
"$LLAVA" info formats/broken/config/good/config.json --image-size 10x10
echo "exit $?"
