# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
try() {
    "$LLAVA" "$@"
    echo "exit $?"
}
try run ./nowhere 'What?'
try info ./nowhere
try tokenize ./nowhere text
try run $model '' 
try run $model - </dev/null
try run $model 'What?' --image "$CLI_DATA/missing.png"
try run $model 'What?' --image "$CLI_DATA/broken.png"
try run $model 'Is <image> like <image>?' --image "$CLI_DATA/square.png"
try run $model '<image>' --raw
try run $model 'What?' --load-4bit --load-8bit
try run $model 'What?' --load-4bit --quantization-config '{"bnb_4bit_quant_type": "int3"}'
try run $model 'What?' --load-8bit --quantization-config '{"quant_method": "gptq"}'
try run $model 'What?' --quantization-config '{}'
try run $model 'What?' --overwrite-config '[]'
try run $model 'What?' --overwrite-config '{'
try run $model 'What?' --cpu-level c --context-tokens 10
try run $model 'What?' --stop ''  --max-new-tokens 2 --torch-dtype float32 --cpu-level c
try tokenize $model --decode '1 2 x'
try info $model --overwrite-config '{"architectures": ["NoSuchModel"]}' --model-name x
try batch $model --data "$CLI_DATA/missing.jsonl"
try verify "$CLI_DATA/missing.json"
try verify "$CLI_DATA/questions.jsonl"
