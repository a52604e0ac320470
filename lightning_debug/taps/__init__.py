"""The only places that touch modules, tensors and torch functions: what happened, as numbers."""
