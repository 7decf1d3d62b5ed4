"""docs/protocol.md in code, for both sides. No I/O, no clock."""
