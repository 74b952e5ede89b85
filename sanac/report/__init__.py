"""Reports of measurements: charts, CI output, the Hugging Face hub and MLflow."""
