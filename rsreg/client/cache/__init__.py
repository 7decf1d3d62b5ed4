"""Answers that need no question to the registry."""
