"""Other readings of the network: as a score, in SDEs and flows."""
