# needs models/llava-onevision-qwen-siglip
model=models/llava-onevision-qwen-siglip
"$LLAVA" chat $model --image "$CLI_DATA/square.png" --torch-dtype float32 --cpu-level c --max-new-tokens 8 <<END
What is shown?
And now?
/image $CLI_DATA/missing.png
/image $CLI_DATA/square.png
Is this like the first?
/hepl
/zzzzzzzz
/image

/help
/reset
What is shown?
/quit
not read any more
END
echo "exit $?"
