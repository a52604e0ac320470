"""Section 4 of the checklist: diagnose the parameters."""
