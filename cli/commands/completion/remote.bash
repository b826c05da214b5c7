
# Remote paths, asked of the coordinator.
_bytenode_remote() {
    local line="${COMP_LINE:0:COMP_POINT}" word candidate keep=""
    # The last word as typed, with the blanks in it that a backslash hides: what bash calls a word ends at a colon.
    word="${line##*[!\\][[:space:]]}"
    word="${word//\\/}"
    if [[ "$word" != bn:* ]]; then
        _bytenode "$@"
        return
    fi
    COMPREPLY=()
    # Only what stands after the colon is replaced, where a colon ends a word.
    [[ "$COMP_WORDBREAKS" == *:* ]] && keep="bn:"
    while IFS= read -r candidate; do
        printf -v candidate %q "${candidate#"$keep"}"
        COMPREPLY+=("$candidate")
    done < <("$1" internal-complete "$word" 2>/dev/null)
    if [[ "${COMPREPLY[*]}" == */ ]]; then
        compopt -o nospace 2>/dev/null
    fi
    compopt +o default +o bashdefault 2>/dev/null
    return 0
}
complete -F _bytenode_remote -o bashdefault -o default bytenode
