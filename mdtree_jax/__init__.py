"""Says why a trained network is not good enough, from its loss landscape, without retraining it."""
