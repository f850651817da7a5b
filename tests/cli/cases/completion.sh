"$LLAVA" --completion-words
"$LLAVA" --completion-words info
"$LLAVA" --completion-words run torch-dtype
"$LLAVA" --completion-words run image
"$LLAVA" --completion-words run raw
"$LLAVA" --completion-words nothing
"$LLAVA" --completion-words run conv-mode | wc -l
