"""Ways of choosing a node, compared in virtual time on emulated nodes: `python -m benchmarks.simulate`.

The gateway's own decisions are the shipped code of `sollol.core`, fed with the events that the engine would publish; the nodes
are the emulator's model of one. Only the sockets and the wall clock are missing, so an hour takes seconds and every policy gets
the very same requests.

- `world`: virtual time, the nodes, and what became of each request
- `traffic`: requests drawn from a seed; `clusters`: sets of nodes
- `shipped`: our policy; `truth`: the same code given true values ("ideal"); `simple`: policies that choose at once
- `scenarios`: one function each, with what is promised of it; `measure` and `report`: figures, ratios, tables
"""
