"""What each command prints for people: one module per verb, each with `show(outcome)`."""
