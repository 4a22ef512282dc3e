"""Where machines come from: one protocol, and the files that each know one kind of cloud."""
