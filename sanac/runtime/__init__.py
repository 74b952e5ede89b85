"""What can run a model here, and how."""
