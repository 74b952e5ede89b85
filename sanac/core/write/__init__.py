"""Writing artifacts: jobs, the executor, and the file formats."""
