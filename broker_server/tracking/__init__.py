"""Experiment tracking: what a run tells its observers, written where people compare runs."""
