"""Measuring pictures: the judge, CLIP scores, distances, intervals, reports.

This room consumes pictures and never draws them: who calls it brings an iterable of images.
"""
