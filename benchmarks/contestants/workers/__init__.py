"""What runs inside a contestant's own process: nothing of another's, so that each environment holds one alone."""
