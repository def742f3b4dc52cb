"""What a run is on: processes, launchers, number formats and random states."""
