"""Pages about machines, one file per page."""
