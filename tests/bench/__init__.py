"""What the suite costs, measured beside what people use instead: ``python -m tests.bench``."""
