"""Moving messages between processes, for both sides."""
