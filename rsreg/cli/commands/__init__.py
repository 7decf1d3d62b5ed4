"""The commands of `rs_cs`, a module for each group of them."""
