"""Races this project against others on the same work: what `latentdiff bench` calls."""
