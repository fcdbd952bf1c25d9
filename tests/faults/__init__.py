"""Faulty and healthy networks whose fault is known, because retraining without it was measured."""
