"""How a run is recorded and watched."""
