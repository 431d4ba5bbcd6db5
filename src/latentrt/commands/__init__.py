"""What each subcommand of `latentrt` does and prints."""
