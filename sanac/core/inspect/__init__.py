"""`sanac inspect`: its settings and its job."""
