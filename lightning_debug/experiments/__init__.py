"""Short trials on a copy of the model: what would happen if, at no risk to the run."""
