
# Remote paths, asked of the coordinator.
_bytenode_remote() {
    local typed="${(Q)PREFIX}"
    if [[ "$typed" != bn:* ]]; then
        _bytenode "$@"
        return
    fi
    local -a found
    found=("${(@f)$("${(Q)words[1]}" internal-complete "$typed" 2>/dev/null)}")
    found=("${(@)found:#}")
    compadd -S '' -- "${(@M)found:#*/}"
    compadd -- "${(@)found:#*/}"
}

if [ "$funcstack[1]" = "_bytenode" ]; then
    _bytenode_remote "$@"
fi
compdef _bytenode_remote bytenode
