# every option stands in the manual page, and every command in its overview
sed 's/\\-/-/g' "$CLI_SOURCE/llava.1" >"$WORK/manual"
for command in $("$LLAVA" --completion-words | grep -v '^--'); do
    grep -q "llava $command" "$WORK/manual" || echo "the manual lacks the command $command"
    grep -q "## \`llava $command" "$CLI_SOURCE/../docs/CLI.md" ||
        echo "docs/CLI.md lacks the command $command"
    # compare's --a-NAME and --b-NAME are described once
    for option in $("$LLAVA" --completion-words "$command" | sed 's/^--[ab]-/--/' | sort -u); do
        grep -q -e "$option\\b" "$WORK/manual" || echo "the manual lacks $option"
        grep -q -e "\`$option\\b" "$CLI_SOURCE/../docs/CLI.md" || echo "docs/CLI.md lacks $option"
    done
done
# and the manual names no option that does not exist
for command in $("$LLAVA" --completion-words | grep -v '^--'); do
    "$LLAVA" --completion-words "$command"
done | sort -u >"$WORK/options"
grep -o -e '--[a-z0-9-]*[a-z0-9]' "$WORK/manual" | sort -u >"$WORK/named"
comm -13 "$WORK/options" "$WORK/named" | sed 's/^/no such option: /'
