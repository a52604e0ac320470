"""The report: one HTML file that opens anywhere, made from a run folder."""
