"""The way from a browser to a machine's desktop. A leaf: it decides nothing, it asks `instances.grants` and relays."""
