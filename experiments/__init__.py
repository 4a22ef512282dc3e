"""What people measured, and who may see it."""
