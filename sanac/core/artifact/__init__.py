"""Artifacts: block plans, manifests, staging, the workspace, cached results, measurements."""
