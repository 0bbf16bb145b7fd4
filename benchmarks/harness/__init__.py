"""What `benchmarks/run.py` is made of: the machine, the native tools, the front doors, the rows and the report."""
