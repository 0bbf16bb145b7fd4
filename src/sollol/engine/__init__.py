"""State and tasks: the loop that owns the cluster, carries decisions out and relays answers."""
