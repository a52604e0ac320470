"""Where findings and statistics go."""
