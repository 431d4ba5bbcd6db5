"""What runs inside a contestant's own process. Only `protocol` is shared: an environment has that contestant alone."""
