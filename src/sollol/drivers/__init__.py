"""The outside world, one file per outside thing; each implements a port of `core.ports`."""
