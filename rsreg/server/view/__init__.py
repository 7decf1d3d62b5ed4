"""The live view: all leases in memory, from which every question is answered."""
