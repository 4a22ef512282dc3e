"""Machines people work on."""
