"""The `smdaemon` command: parse, call, print."""
