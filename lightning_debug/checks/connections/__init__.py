"""Section 3 of the checklist: check intermediate outputs and connections."""
