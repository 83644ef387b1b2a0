"""What a training run remembers besides its tensors: a small, versioned JSON record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from latentdiff.errors import UserError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The run after `step` updates; sample order and noise follow from `positions` alone."""

    task: str
    step: int
    positions: int
    """Samples seen, over all processes: the next sample's address."""
    minutes: float
    """Wall time used, summed over sittings."""
    begin_step: int = 0
    """Where the run began: above 0 when it was branched off another."""
    decay_start: int | None = None
    decay_end: int | None = None
    seed: int = 0
    config_hash: str = ""
    keep: bool = False
    """Never rotated away: the state before the decay, from which training can go on."""
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values with the schema's number."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> TrainState:
        """Read a record back; UserError when it is not one of this schema."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise UserError(f"state.json is not a training state of schema {SCHEMA}")
        known = {f.name for f in dataclasses.fields(cls)}
        given = {k: v for k, v in value.items() if k != "schema"}
        try:
            state = cls(**given)
        except TypeError:
            odd = sorted(known.symmetric_difference(given))
            raise UserError(f"state.json has missing or unknown keys: {', '.join(odd)}") from None
        if not (isinstance(state.step, int) and isinstance(state.positions, int)):
            raise UserError("state.json: step and positions must be whole numbers")
        return state
