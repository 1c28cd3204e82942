"""How fast smdaemon is, how much memory it takes, and how that compares; see README.md."""
