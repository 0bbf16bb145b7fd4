"""The library: everything that a gateway does, inside an application and without a port."""
