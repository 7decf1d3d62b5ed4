"""What an operator does, as Python calls; rs_cs is a face of it."""
