"""What workers and hosts tell each other through Redis."""
