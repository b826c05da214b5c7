
# Remote paths, asked of the coordinator.
complete -c bytenode -n 'string match -q -- "bn:*" (commandline -ct)' -f -a '(bytenode internal-complete (commandline -ct | string unescape) 2>/dev/null)'
