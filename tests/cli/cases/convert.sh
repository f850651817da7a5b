# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
answers="$CLI_DATA/answers.jsonl"
try() {
    "$LLAVA" "$@"
    echo "exit $?"
}
# what is written once is what quantizing while loading makes, tower and projector too
same() { # NAME OPTION...
    name=$1
    shift
    try convert $model "$WORK/$name" "$@"
    "$LLAVA" info "$WORK/$name" | grep 'quantization\|converted'
    a_options=$(printf '%s\n' "$@" | sed 's/^--/--a-/')
    IFS='
'
    "$LLAVA" compare $model "$WORK/$name" --data "$answers" $a_options --cpu-level c |
        grep 'KL\|top-1'
    unset IFS
}
same nf4 --load-4bit
same plain-scales --load-4bit --quantization-config '{"bnb_4bit_use_double_quant": false, "bnb_4bit_quant_type": "fp4"}'
same decoder --load-4bit --quantization-config '{"llm_int8_skip_modules": ["lm_head", "mm_projector", "vision_tower"]}'
same int8 --load-8bit
sed -n '/"quantization_config"/,/}/p' "$WORK/decoder/config.json"
# what describes the tower lies in the new directory
(cd "$WORK" && ls nf4 nf4/towers/* && "$LLAVA" info nf4 | grep 'tower  *SigLIP\|problems')
# codes pass through
try convert "$WORK/nf4" "$WORK/again"
cmp "$WORK/nf4/model.safetensors" "$WORK/again/model.safetensors" && echo 'the same bytes'
cmp "$WORK/nf4/config.json" "$WORK/again/config.json" && echo 'the same configuration'
try convert models/tiny-qwen2-window "$WORK/again" --load-4bit --load-8bit
try convert models/tiny-qwen2-window "$WORK/again" --load-4bit
