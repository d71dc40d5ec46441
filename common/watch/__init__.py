"""Pictures, films, curves and numbers of a run while it grows. Nothing here changes a result."""
