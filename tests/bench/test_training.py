"""`bench train`: both loops compute the same losses, and the cache's price is counted right."""

from __future__ import annotations

from dataclasses import replace

import own_data
import pytest
import tiny
import torch
from run_task import opened

from latentdiff.bench.race import Outcome
from latentdiff.bench.runners import Turn
from latentdiff.bench.training.trainers import Gate, our_config, ours
from latentdiff.bench.training.training_race import OURS, PEER, UNCACHED, pay_back
from latentdiff.bench.training.training_work import TrainingWork

SIZE, UPDATES = 32, 6


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> TrainingWork:
    """Fine-tuning of a tiny v-model on a few pictures."""
    root = tmp_path_factory.mktemp("bench")
    model = tiny.save(tiny.tiny("v_prediction"), root / "model")
    data = own_data.make_images(root / "data", ((SIZE, SIZE),) * 16)
    return TrainingWork(
        model=str(model),
        data=str(data),
        folder=str(root),
        size=SIZE,
        batch_size=4,
        steps=2,
        learning_rate=1e-3,
    )


def test_the_peers_loop_and_ours_have_the_same_losses_under_the_same_draws(
    work: TrainingWork,
) -> None:
    from latentdiff.bench.training.peer_training import Draws, PeerTraining
    from latentdiff.pixels import to_pixels
    from latentdiff.training.tasks.text_to_image import TextToImageTask

    # The example decays vectors too, and its first update has a rate of zero when it warms up.
    work = replace(work, steps=1, weight_decay=0.0, warmup_steps=0)
    config = our_config(work, "same losses", cached=False, fields={"channels_last": False})
    batches = opened(TextToImageTask, config)
    gained = ours(
        name="same losses, ours",
        work=work.to_json(),
        cached=False,
        fields={"channels_last": False},
    )
    peer = PeerTraining(work)
    losses: list[tuple[float, float]] = []
    for step in range(UPDATES):
        batch = batches.batch(range(step * work.batch_size, (step + 1) * work.batch_size))
        given = {
            "pixel_values": to_pixels(batch["images"]).contiguous(),
            "input_ids": batch["input_ids"],
        }
        draws = Draws(posterior=batch["posterior"], eps=batch["eps"], t=batch["t"])
        losses.append((peer.step(given, draws), gained(step)["loss"]))
    theirs, mine = torch.tensor(losses).T
    assert len(set(mine.tolist())) == UPDATES
    assert torch.allclose(theirs, mine, rtol=0, atol=1e-5), (theirs, mine)


def test_the_gate_lets_just_so_many_updates_through() -> None:
    seen: list[int] = []

    def loop(gate: Gate) -> None:
        for number in gate:
            seen.append(number)

    gate = Gate()
    gate.start(loop)
    assert seen == []
    gate.let(3)
    assert len(seen) == 3
    gate.let(1)
    assert len(seen) == 4


def test_an_error_in_the_loop_comes_out_of_the_gate() -> None:
    def loop(gate: Gate) -> None:
        next(gate)
        raise ValueError("no more pictures")

    gate = Gate()
    gate.start(loop)
    with pytest.raises(RuntimeError, match="no more pictures"):
        gate.let(1)


def test_a_cache_pays_for_itself_when_its_price_equals_what_was_saved() -> None:
    def outcome(name: str, seconds: float, opening: float) -> Outcome:
        turn = Turn(seconds=seconds, cpu_seconds=seconds, facts={"opening": opening})
        return Outcome(name=name, exact=True, turns=(turn,))

    found = [outcome(PEER, 20.0, 0.0), outcome(OURS, 10.0, 7.0), outcome(UNCACHED, 15.0, 2.0)]
    lines = pay_back(found, rows=100, samples=10)
    # A picture costs 1 s with the cache, 2 s at the peer: 100 of them save 100 s; the cache took 5.
    assert lines[0] == "the cache of 100 pictures took 5.0 CPU-seconds, once"
    assert lines[1].endswith(f"{PEER} it has paid for itself after 0.1 epochs")
    assert len(lines) == 3


def test_the_parts_of_an_update_add_up_and_what_stands_between_is_measured_once(
    work: TrainingWork,
) -> None:
    from latentdiff.bench.training import parts

    learner = parts.LEARNERS[0]
    settings = {"name": learner.name, "work": work.to_json(), **dict(learner.settings)}
    train = parts.measured(**settings)
    warm, counted = train(-1), train(0)
    assert set(parts.PARTS) | {parts.STALL, parts.WRITTEN, parts.VALIDATION} == set(counted)
    assert all(seconds > 0 for seconds in counted.values())
    assert counted[parts.STALL] <= counted[parts.WRITTEN] == warm[parts.WRITTEN]
    outcome = Outcome(
        name=learner.name,
        exact=True,
        turns=(Turn(seconds=1.0, cpu_seconds=1.0, facts=counted),),
    )
    lines = parts._between_lines(outcome)
    assert len(lines) == 2 and "validation" in lines[0] and "training waits" in lines[1]
