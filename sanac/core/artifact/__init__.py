"""Artifacts: plans, manifests, staging, the workspace, cached results, measurements."""
