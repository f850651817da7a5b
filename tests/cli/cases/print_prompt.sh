# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
"$LLAVA" run $model 'What is shown?' --image "$CLI_DATA/square.png" --print-prompt
"$LLAVA" run $model 'What is shown?' --system 'Be brief.' --print-prompt
"$LLAVA" run $model 'What is shown?' --conv-mode vicuna_v1 --print-prompt
"$LLAVA" run $model 'As it stands' --raw --print-prompt --json
