try() {
    "$LLAVA" "$@"
    echo "exit $?"
}
try nonsense
try rum
try run
try run model
try run model a b
try run model a --tempurature 1
try run model a --zzzzzz
try run model a -x
try run model a --temperature warm
try run model a --temperature=-1
try run model a --top-k
try run model a --top-k=1.5
try run model a --torch-dtype int8
try run model a --device-map tpu
try run model a --do-sample=yes
try run model a --seed -1
try run model a --stop-id x
try run model a --conv-mode qwen_1_6
try batch model
try info model --image-size 640
try info model --image-size 640x480x3
try templates qwen
try templates zzzzzzzzzz
try verify
try tokenize
"$LLAVA" 2>&1 | head -1
