"""Depth pruning: block importance scores, block selection and search, closed-form repair of the gaps."""
