"""The control socket: HTTP for people, curl, probes and Prometheus."""
