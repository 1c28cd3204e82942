"""The daemon: the services of the rooms below, wired into one nursery."""
