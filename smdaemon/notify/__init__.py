"""Telling others what became of jobs: commands and webhooks, at least once, in order, across restarts."""
