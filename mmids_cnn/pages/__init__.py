"""What pictures and pages share. Knows neither a network nor a run."""
