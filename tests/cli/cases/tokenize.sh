# needs models/llava-v1.5-llama-clip-pad
for model in models/llava-onevision-qwen-siglip models/llava-v1.5-llama-clip-pad; do
    "$LLAVA" tokenize $model 'Hello there' '' ' spaces  ' 'Zürich ☃'
    printf 'one\n<image> two' | "$LLAVA" tokenize $model
    "$LLAVA" tokenize $model --prompt 'a <image> b'
    "$LLAVA" tokenize $model --decode '[65, 66, 67]' '68,69' '70 71'
done
# bytes that are no UTF-8 stay valid JSON
printf 'a\377b\n' | "$LLAVA" tokenize models/llava-onevision-qwen-siglip | cut -c 1-20
