for command in run chat batch info tokenize templates verify; do
    "$LLAVA" $command --help
    echo "exit $?"
done
"$LLAVA" --help
echo "exit $?"
"$LLAVA" help run | head -1
"$LLAVA" --version
