"""What sources state about experiments and datasets, read into our own values; one file for each kind of source."""
