"""Trainings made of trainings: rehearsals, speed probes, the embedded model."""
