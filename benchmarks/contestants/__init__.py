"""Who takes part in a trial: latentrt's engines and their peers, each in an environment and a process of its own."""
