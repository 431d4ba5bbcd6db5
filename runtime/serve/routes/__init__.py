"""One module for each API that the server speaks: `router(service)` gives its routes."""
