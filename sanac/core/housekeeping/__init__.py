"""What a workspace holds, and deleting what can be made again."""
