"""The desktop: from a ticket to pixels. A leaf: it decides nothing and knows only grants."""
