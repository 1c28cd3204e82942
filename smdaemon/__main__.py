"""`python -m smdaemon` is the `smdaemon` command."""

from smdaemon.cli.main import main

if __name__ == "__main__":
    main()
