"""Races of fine-tuning."""
