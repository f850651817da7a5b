"$LLAVA" templates
for name in qwen_1_5 vicuna_v1 llava_llama_2 plain; do
    "$LLAVA" templates $name
    echo "exit $?"
done
"$LLAVA" templates v1 --json
