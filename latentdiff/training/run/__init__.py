"""How a run goes: processes, loop, time, signals, state."""
