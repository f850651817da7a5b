# SPDX-License-Identifier: Apache-2.0
# Completion for llava. The words come from the program itself, so they cannot be out of date.
_llava() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local program=${COMP_WORDS[0]} command=${COMP_WORDS[1]} words
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$("$program" --completion-words)" -- "$current")
        return
    fi
    if [[ $previous == --* ]]; then
        words=$("$program" --completion-words "$command" "${previous#--}")
        if [[ $words == . ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
        elif [[ -n $words ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
            return
        fi
    fi
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$("$program" --completion-words "$command")" -- "$current")
    elif [[ $command == templates ]]; then
        words=$("$program" --completion-words run conv-mode)
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}
complete -F _llava llava
