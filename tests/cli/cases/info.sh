# needs models/llava-v1.5-llama-clip-pad
"$LLAVA" info models/llava-onevision-qwen-siglip --image-size 640x480 --context-tokens 1000
echo "exit $?"
"$LLAVA" info models/llava-v1.5-llama-clip-pad --image-size 640x480 --torch-dtype float32
"$LLAVA" info models/tiny-qwen2-window --image-size 640x480
echo "exit $?"
"$LLAVA" info models/tiny-qwen2-window --json | sed -n '/"memory"/,/}/p; /"session"/,/}/p'
