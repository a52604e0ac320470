"""What should be settled before anything is trained for long."""
