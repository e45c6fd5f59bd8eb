"""Use of a trained network outside of training."""
