"""What happens to each export and when: state table, journal, scheduler, retry."""
