"""Section 2 of the checklist: confirm the loss."""
