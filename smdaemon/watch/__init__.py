"""Which drops are complete? inotify, polling, rescan, completeness by format."""
