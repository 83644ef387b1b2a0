"""Folders of pictures, in the layouts that people and programs make."""
