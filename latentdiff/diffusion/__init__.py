"""The mathematics of diffusion: schedules, conversions, grids, objectives. No networks, no I/O."""
