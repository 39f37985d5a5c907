"""The small program that stands between the agent and one process, and outlives the agent.

It is compiled into the agent's data folder and run from there, `python3 -I -S …/process_shim/__main__.pyc …`. It imports nothing of
ours and little else, because there is one of it for each process on the node:

    start FOLDER          supervise in the background; prints `started`, `already`, `busy` or `refused <sentence>`
    run FOLDER            supervise in the foreground, as the main process of a systemd unit (`Type=notify`)
    exec REQUEST STATUS   become a command beside a running process; two descriptors: the request, and where to say what failed

Files in FOLDER (`request` is there before the shim, all else is its own):

    request               what to run: `key=value` fields, each ended by a NUL, which no argument or variable can hold
    lock                  locked by the shim for all its life
    started               who runs: pid, start time and boot id of shim and process. Durable *before* the program is executed,
                          so a process without this record never ran, and one with it never runs again
    ended                 exit code, out-of-memory verdict, or the sentence why it could not be executed
    log.000001 …          `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, P for a part of a line; the format of CRI
"""
