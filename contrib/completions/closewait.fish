# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_closewait_global_optspecs
    string join \n output= color= redact socket= alone h/help V/version
end

function __fish_closewait_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_closewait_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_closewait_using_subcommand
    set -l cmd (__fish_closewait_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c closewait -n "__fish_closewait_needs_command" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_needs_command" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_needs_command" -l socket -d 'Control socket of the agent to query, if one is running [default: /run/closewait/agent.sock]' -r -F
complete -c closewait -n "__fish_closewait_needs_command" -l redact -d 'Show labels instead of addresses and names of hosts, users, programs, files and functions, for readers outside: file-1, 2001:db8::1. Ports, numbers and verdicts stay'
complete -c closewait -n "__fish_closewait_needs_command" -l alone -d 'Do not query a running agent'
complete -c closewait -n "__fish_closewait_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_needs_command" -s V -l version -d 'Print version'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "status" -d 'Show all groups of CLOSE_WAIT sockets on one screen, the worst first, with causes and next steps (the default)'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "run" -d 'Run the agent: write incidents and stuck sockets to standard output and dwell time histograms to the log, until SIGINT or SIGTERM'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "top" -d 'Show all groups live on a full screen, or move through a recording'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "list" -d 'List current CLOSE_WAIT sockets, oldest first'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "tail" -d 'Follow the events of a running agent, until it ends or SIGINT'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "kill" -d 'Destroy matching sockets (dry run unless --yes)'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "report" -d 'Write an incident report from an agent, a recording or a one-off scan'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "replay" -d 'Replay a recording of `run --record`: the same events, byte for byte'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "explain" -d 'Explain a verdict: its conditions, the evidence against it, similar cases, and what to do; or a word of the output'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "stacks" -d 'Show what the threads of a process are doing, without stopping it'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "check" -d 'Check as a monitoring probe; with `-- CMD`, run CMD and fail if it leaves sockets in CLOSE_WAIT'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "config" -d 'Check and show the configuration of `run`, from files, the environment and the command line'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "doctor" -d 'Check what this kernel and these privileges allow, and what is missing'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "completions" -d 'Print a script that completes the commands and options of closewait in a shell'
complete -c closewait -n "__fish_closewait_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c closewait -n "__fish_closewait_using_subcommand status" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand status" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand status" -l socket -d 'Control socket of the agent to query, if one is running [default: /run/closewait/agent.sock]' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand status" -l redact -d 'Show labels instead of addresses and names of hosts, users, programs, files and functions, for readers outside: file-1, 2001:db8::1. Ports, numbers and verdicts stay'
complete -c closewait -n "__fish_closewait_using_subcommand status" -l alone -d 'Do not query a running agent'
complete -c closewait -n "__fish_closewait_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand run" -l config -d 'Configuration file, instead of /etc/closewait/closewait.toml and /etc/closewait/conf.d/*.toml' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand run" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l stuck-after -d 'Dwell time after which a socket is stuck and reported; it is reported again at every doubling' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l events -d 'Events to show [default: incidents; stuck with --output json]' -r -f -a "incidents\t'Incidents; in text also the first stuck sockets of a group'
stuck\t'Incidents, and each socket that gets stuck'
all\t'Incidents, and all sockets'"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l histogram-every -d 'Interval between dwell time histograms' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l for -d 'Stop after this time' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l max-sockets -d 'Maximum number of sockets whose entry times the kernel keeps, 80 bytes each; at most 1048576 [default: 262144, lower under a memory limit]' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l max-tracked -d 'Maximum number of sockets that the agent tracks, about 550 bytes each and up to 3400 while they are listed; any more are only counted [default: 1000000, lower under a memory limit]' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l ring-buffer -d 'Size of the ring buffer between kernel and agent in bytes, or with K, M or G: a power of two, at least 4K [default: 4M, lower under a memory limit]' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l hook -d 'Kernel hook; auto: tp_btf if the kernel has BTF, otherwise the classic tracepoint' -r -f -a "auto\t'The BTF-typed tracepoint if the kernel has it, otherwise the classic one'
btf\t'The BTF-typed tracepoint'
classic\t'The classic tracepoint'"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l stacks -d 'Stacks of the threads that own stuck sockets, read from their memory once a minute. A hostile program can make the agent use much memory and CPU time for them, so this is off' -r -f -a "auto\t'The stacks of owners of stuck sockets are read'
never\t'No process\'s memory is read'"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l peek -d 'Requests that stuck sockets have not read: method and path, or the server name of TLS; never query, headers or body' -r -f -a "first-line\t'Method and path of an unread request, or the server name of TLS'
never\t'No unread byte is peeked at'"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l socket -d 'Path of the agent\'s control socket' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand run" -l host-name -d 'Name of this host in events, reports and OTLP, such as the node of a Kubernetes pod [default: that of the kernel]' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l listen -d 'Serve metrics for Prometheus at a loopback address and port, or at a Unix socket: 127.0.0.1:9753 or unix:/PATH; remote:0.0.0.0:9753 serves everybody who reaches this host, without authentication' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l otlp-endpoint -d 'Export metrics and events over OTLP/HTTP to this collector, such as http://127.0.0.1:4318; the variables OTEL_EXPORTER_OTLP_* do the same and set more' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l pin -d 'Pin programs and maps in a directory below /sys/fs/bpf, so that the next agent continues without a gap' -r -f -a "(__fish_complete_directories)"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l connection-limit -d 'Connection limit of a port, a server\'s own or a remote one: incidents forecast when it is reached' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l on-stuck -d 'Program to run when sockets get stuck, with the facts in its environment: a path without arguments' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand run" -l on-pileup -d 'Program to run when an incident opens, doubles, nears a limit, reaches it, or ends' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand run" -l on-stuck-class -d 'Causes of stuck sockets for which --on-stuck runs' -r -f -a "hung\t''
leak\t''
pool\t''
never_accepted\t''
half_close\t''
inherited\t''
proxy_wait\t''
transient\t''
unknown\t''"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l min-certainty -d 'Lowest certainty of a verdict for which a hook runs' -r -f -a "low\t'Any certainty'
medium\t'The verdict is more likely than not'
high\t'Any other cause would be a surprise'
fact\t'The kernel\'s data proves the verdict'"
complete -c closewait -n "__fish_closewait_using_subcommand run" -l hook-timeout -d 'Time limit of a hook' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l hook-every -d 'Minimum interval between hooks for the same process and port' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l record -d 'Record everything that the agent observes to a file, which is overwritten, or to segments in a directory (DIR/)' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand run" -l retain -d 'Time and size of a recording in a directory, as 1h, 1GiB or 1h,1GiB: the oldest segments are deleted [default: 1h,1GiB]' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l record-max -d 'Maximum size of the recording in bytes, or with K, M or G: the recording ends there, the agent continues' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand run" -l journal -d 'Send events to the systemd journal, with fields, instead of standard output'
complete -c closewait -n "__fish_closewait_using_subcommand run" -l openers -d 'Record which task opened each socket (costs a few percent at peak connection rate)'
complete -c closewait -n "__fish_closewait_using_subcommand run" -l stacks-jvm -d 'With --stacks auto: have Java virtual machines (HotSpot) dump their threads, each once a minute at most. This makes them act, as `closewait stacks --jvm` describes. A second process of closewait asks them, which keeps the rights for that'
complete -c closewait -n "__fish_closewait_using_subcommand run" -l enter-namespaces -d 'Keep CAP_SYS_ADMIN after the start, to scan network namespaces that are created later'
complete -c closewait -n "__fish_closewait_using_subcommand run" -l kernel-log -d 'Write debug messages of the kernel program to the log'
complete -c closewait -n "__fish_closewait_using_subcommand run" -l unpin -d 'Remove what an agent pinned with --pin (default: /sys/fs/bpf/closewait), and exit'
complete -c closewait -n "__fish_closewait_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand top" -l color -d 'Color; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand top" -l replay -d 'Move through a recording of `run --record`: space plays, arrow keys step, t goes to a time' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand top" -l at -d 'Time in the recording: since its start (1m30s), or of the day in UTC (22:45:20) [default: its end]' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand top" -l socket -d 'Control socket of the agent to query, if one is running [default: /run/closewait/agent.sock]' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand top" -l once -d 'Print the screen once as text; also the default if standard output is no terminal'
complete -c closewait -n "__fish_closewait_using_subcommand top" -l alone -d 'Do not query a running agent'
complete -c closewait -n "__fish_closewait_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand list" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand list" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand list" -l pid -d 'Owned by this process, or not accepted yet from its listener' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand list" -l port -d 'With this local or remote port' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand list" -l peer -d 'With this remote end: ADDRESS, ADDRESS:PORT, or a network such as 10.0.0.0/8' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand list" -l cgroup -d 'In this cgroup: its path (and all below it), a part of a path, unit name, pod name or container id, or id:N for a cgroup without a known path' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand list" -l older-than -d 'In CLOSE_WAIT for at least this time' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand list" -l verdict -d 'With this cause: hung, leak, pool, never_accepted, half_close, inherited, proxy_wait, transient, unknown' -r -f -a "hung\t''
leak\t''
pool\t''
never_accepted\t''
half_close\t''
inherited\t''
proxy_wait\t''
transient\t''
unknown\t''"
complete -c closewait -n "__fish_closewait_using_subcommand list" -l by -d 'Show one row per socket, or per group of sockets' -r -f -a "socket\t'Nothing: one row per socket'
group\t'Owner and port or remote endpoint, as in `closewait status`'
process\t'Owning process'
listener\t'Listening socket that accepted them'
peer\t'Remote address'
cgroup\t'Cgroup of the owner'"
complete -c closewait -n "__fish_closewait_using_subcommand list" -l sort -d 'Property that sorts rows [default: age for sockets, urgency for --by group, number of sockets for others]' -r -f -a "age\t'Age, the oldest first'
recv-q\t'Unread bytes, the most first'
send-q\t'Unacknowledged bytes, the most first'
port\t'Port of the server'
owner\t'Name of the owner'
verdict\t'Verdict, the most serious first'"
complete -c closewait -n "__fish_closewait_using_subcommand list" -l columns -d 'Columns to show, in this order: headings of the table in lower case; for sockets also protocol, role, cookie, inode, cgroup, received, sent, acked, read, keepalive, listener, waits-for, opener, rule, cause' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand list" -l watch -d 'List again at this interval, until SIGINT' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand list" -l socket -d 'Control socket of the agent to query, if one is running [default: /run/closewait/agent.sock]' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand list" -l reverse -d 'Reverse the order of rows'
complete -c closewait -n "__fish_closewait_using_subcommand list" -l all -d 'Show all rows, even if they do not fit the screen'
complete -c closewait -n "__fish_closewait_using_subcommand list" -l wide -d 'Show all columns and rows, and do not shorten anything to fit the screen'
complete -c closewait -n "__fish_closewait_using_subcommand list" -l redact -d 'Show labels instead of addresses and names of hosts, users, programs, files and functions, for readers outside: file-1, 2001:db8::1. Ports, numbers and verdicts stay'
complete -c closewait -n "__fish_closewait_using_subcommand list" -l alone -d 'Do not query a running agent'
complete -c closewait -n "__fish_closewait_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand tail" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand tail" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand tail" -l since -d 'Show past events of this time first, as far as the agent remembers them' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand tail" -l events -d 'Events to show [default: incidents; stuck with --output json]' -r -f -a "incidents\t'Incidents; in text also the first stuck sockets of a group'
stuck\t'Incidents, and each socket that gets stuck'
all\t'Incidents, and all sockets'"
complete -c closewait -n "__fish_closewait_using_subcommand tail" -l socket -d 'Control socket of the agent' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand tail" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l pid -d 'Owned by this process, or not accepted yet from its listener' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l port -d 'With this local or remote port' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l peer -d 'With this remote end: ADDRESS, ADDRESS:PORT, or a network such as 10.0.0.0/8' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l cgroup -d 'In this cgroup: its path (and all below it), a part of a path, unit name, pod name or container id, or id:N for a cgroup without a known path' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l older-than -d 'In CLOSE_WAIT for at least this time' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l verdict -d 'With this cause: hung, leak, pool, never_accepted, half_close, inherited, proxy_wait, transient, unknown' -r -f -a "hung\t''
leak\t''
pool\t''
never_accepted\t''
half_close\t''
inherited\t''
proxy_wait\t''
transient\t''
unknown\t''"
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l max -d 'Do nothing if more sockets than this match' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l socket -d 'Control socket of the agent to query, if one is running [default: /run/closewait/agent.sock]' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l yes -d 'Destroy the sockets; without it, only show what would be destroyed'
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l wide -d 'Show all columns, and do not shorten anything to fit the screen'
complete -c closewait -n "__fish_closewait_using_subcommand kill" -l alone -d 'Do not query a running agent'
complete -c closewait -n "__fish_closewait_using_subcommand kill" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand report" -l output -d 'Text, Markdown or an HTML page for a ticket system, or one JSON object' -r -f -a "text\t'Text for people'
md\t'Markdown'
html\t'HTML page'
json\t'One object'"
complete -c closewait -n "__fish_closewait_using_subcommand report" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand report" -l last -d 'Leave out incidents that ended before the last part of this length, such as 15m' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand report" -l pid -d 'Owned by this process, or not accepted yet from its listener' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand report" -l port -d 'With this local or remote port' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand report" -l peer -d 'With this remote end: ADDRESS, ADDRESS:PORT, or a network such as 10.0.0.0/8' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand report" -l cgroup -d 'In this cgroup: its path (and all below it), a part of a path, unit name, pod name or container id, or id:N for a cgroup without a known path' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand report" -l older-than -d 'In CLOSE_WAIT for at least this time' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand report" -l verdict -d 'With this cause: hung, leak, pool, never_accepted, half_close, inherited, proxy_wait, transient, unknown' -r -f -a "hung\t''
leak\t''
pool\t''
never_accepted\t''
half_close\t''
inherited\t''
proxy_wait\t''
transient\t''
unknown\t''"
complete -c closewait -n "__fish_closewait_using_subcommand report" -l socket -d 'Control socket of the agent to query, if one is running [default: /run/closewait/agent.sock]' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand report" -l redact -d 'Show labels instead of addresses and names of hosts, users, programs, files and functions, for readers outside: file-1, 2001:db8::1. Ports, numbers and verdicts stay'
complete -c closewait -n "__fish_closewait_using_subcommand report" -l alone -d 'Do not query a running agent'
complete -c closewait -n "__fish_closewait_using_subcommand report" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand replay" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand replay" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand replay" -l last -d 'Show only the events of the last part of this length, such as 15m' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand replay" -l events -d 'Events to show [default: incidents; stuck with --output json]' -r -f -a "incidents\t'Incidents; in text also the first stuck sockets of a group'
stuck\t'Incidents, and each socket that gets stuck'
all\t'Incidents, and all sockets'"
complete -c closewait -n "__fish_closewait_using_subcommand replay" -l speed -d 'Playback speed multiplier; max: as fast as possible' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand replay" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand explain" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand explain" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand stacks" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand stacks" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand stacks" -l jvm -d 'Have a Java virtual machine (HotSpot) dump its threads: it gets SIGQUIT at the first time, listens at a socket in its /tmp from then on, and stops its threads for the moment of the dump'
complete -c closewait -n "__fish_closewait_using_subcommand stacks" -l virtual-threads -d 'With --jvm: also the virtual threads that wait (JDK 21 and later), which the JVM writes into a pipe in its /tmp'
complete -c closewait -n "__fish_closewait_using_subcommand stacks" -l redact -d 'Show labels instead of names of programs, threads, files and functions, except those of runtimes and of the libraries of a system, for readers outside: file-1, function-2. Line numbers stay'
complete -c closewait -n "__fish_closewait_using_subcommand stacks" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand check" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand check" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand check" -l warn -d 'Thresholds of the state WARNING, such as stuck=50,growth=1,exhaustion=1h' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l crit -d 'Thresholds of the state CRITICAL, such as stuck=500,exhaustion=5m' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l pid -d 'Owned by this process, or not accepted yet from its listener' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l port -d 'With this local or remote port' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l peer -d 'With this remote end: ADDRESS, ADDRESS:PORT, or a network such as 10.0.0.0/8' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l cgroup -d 'In this cgroup: its path (and all below it), a part of a path, unit name, pod name or container id, or id:N for a cgroup without a known path' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l older-than -d 'In CLOSE_WAIT for at least this time' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l verdict -d 'With this cause: hung, leak, pool, never_accepted, half_close, inherited, proxy_wait, transient, unknown' -r -f -a "hung\t''
leak\t''
pool\t''
never_accepted\t''
half_close\t''
inherited\t''
proxy_wait\t''
transient\t''
unknown\t''"
complete -c closewait -n "__fish_closewait_using_subcommand check" -l socket -d 'Control socket of the agent to query, if one is running [default: /run/closewait/agent.sock]' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand check" -l grace -d 'Time that the processes of CMD have to close their sockets after its end; a socket that its program left open for this time counts' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l stuck-after -d 'Dwell time after which a socket of CMD counts even if its program closes it later' -r -f
complete -c closewait -n "__fish_closewait_using_subcommand check" -l alone -d 'Do not query a running agent'
complete -c closewait -n "__fish_closewait_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand config; and not __fish_seen_subcommand_from check show example help" -s h -l help -d 'Print help'
complete -c closewait -n "__fish_closewait_using_subcommand config; and not __fish_seen_subcommand_from check show example help" -f -a "check" -d 'Check the configuration: exit code 0, or 2 with all problems'
complete -c closewait -n "__fish_closewait_using_subcommand config; and not __fish_seen_subcommand_from check show example help" -f -a "show" -d 'Show all settings of `run`, and the source of each'
complete -c closewait -n "__fish_closewait_using_subcommand config; and not __fish_seen_subcommand_from check show example help" -f -a "example" -d 'Print a configuration file with all settings as comments'
complete -c closewait -n "__fish_closewait_using_subcommand config; and not __fish_seen_subcommand_from check show example help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from check" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from check" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from check" -l config -d 'The same as FILE, as for `run` and `config show`' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from show" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from show" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from show" -l config -d 'Configuration file, instead of /etc/closewait/closewait.toml and /etc/closewait/conf.d/*.toml' -r -F
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from example" -s h -l help -d 'Print help'
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "check" -d 'Check the configuration: exit code 0, or 2 with all problems'
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show all settings of `run`, and the source of each'
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "example" -d 'Print a configuration file with all settings as comments'
complete -c closewait -n "__fish_closewait_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c closewait -n "__fish_closewait_using_subcommand doctor" -l output -d 'Human-readable text, or one JSON object per line' -r -f -a "text\t'Lines and tables'
json\t'Objects'"
complete -c closewait -n "__fish_closewait_using_subcommand doctor" -l color -d 'Color of text; auto: on a terminal, unless NO_COLOR is set' -r -f -a "auto\t'Color if standard output is a terminal'
always\t'Color everywhere'
never\t'No color'"
complete -c closewait -n "__fish_closewait_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "status" -d 'Show all groups of CLOSE_WAIT sockets on one screen, the worst first, with causes and next steps (the default)'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "run" -d 'Run the agent: write incidents and stuck sockets to standard output and dwell time histograms to the log, until SIGINT or SIGTERM'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "top" -d 'Show all groups live on a full screen, or move through a recording'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "list" -d 'List current CLOSE_WAIT sockets, oldest first'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "tail" -d 'Follow the events of a running agent, until it ends or SIGINT'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "kill" -d 'Destroy matching sockets (dry run unless --yes)'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "report" -d 'Write an incident report from an agent, a recording or a one-off scan'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "replay" -d 'Replay a recording of `run --record`: the same events, byte for byte'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "explain" -d 'Explain a verdict: its conditions, the evidence against it, similar cases, and what to do; or a word of the output'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "stacks" -d 'Show what the threads of a process are doing, without stopping it'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "check" -d 'Check as a monitoring probe; with `-- CMD`, run CMD and fail if it leaves sockets in CLOSE_WAIT'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "config" -d 'Check and show the configuration of `run`, from files, the environment and the command line'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "doctor" -d 'Check what this kernel and these privileges allow, and what is missing'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "completions" -d 'Print a script that completes the commands and options of closewait in a shell'
complete -c closewait -n "__fish_closewait_using_subcommand help; and not __fish_seen_subcommand_from status run top list tail kill report replay explain stacks check config doctor completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c closewait -n "__fish_closewait_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "check" -d 'Check the configuration: exit code 0, or 2 with all problems'
complete -c closewait -n "__fish_closewait_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "show" -d 'Show all settings of `run`, and the source of each'
complete -c closewait -n "__fish_closewait_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "example" -d 'Print a configuration file with all settings as comments'
complete -c closewait -n "__fish_closewait_using_subcommand explain" -f -a "accept_stopped accumulates acked age agent attention audit backend_stuck backlog blocked busy_thread cause certainty cgroup child_keeps client_blocked client_undecided close_wait cookie count dropped dwell ends enter exhaustion exit fact fds forgotten fresh full full-in gone group grows growth half_close high hung incident inherited inode inspection keepalive leak left level limit listener local low mature median medium netns never_accepted no_demand none normal oldest onset opener own_pool owner owner_stopped owners partly_blocked peer peers_wait pool port progress protocol proxy_wait queue read reads_slowly received recv-q refresh remote role rule scan send-q sending sent serves_others shared slow snapshot sockets stuck timer too_early transient trend unaccepted undecided unheld unknown unread_response verdict waits-for where who working"
complete -c closewait -n "__fish_closewait_using_subcommand completions" -f -a "bash zsh fish"
