"""One file for each thing that a dialect does: ask (parse or render a request), read a node's reply, write a client's reply."""
