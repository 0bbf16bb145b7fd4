"""Emulated nodes: a pure model of what a node does and when, and a socket server around it."""
