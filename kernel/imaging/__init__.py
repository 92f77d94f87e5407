"""Images of processes: written at one moment, checked, started from."""
