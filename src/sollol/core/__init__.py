"""Deciding without input or output: values in, values out. Nothing here reads a clock, the environment or a socket."""
