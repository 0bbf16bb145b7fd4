"""The fault table: what clients of a running gateway see while nodes, other clients or the gateway itself fail.

`python -m benchmarks.faults` plays every row of `table.py` with real processes and sockets and prints what was measured.
"""
