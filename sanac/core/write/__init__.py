"""Writing artifacts: the job, its executor, and the file formats."""
