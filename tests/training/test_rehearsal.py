"""--rehearse: its flags, its estimate, and the whole of it on a tiny model."""

import dataclasses

import pytest
import tiny
from test_own_pictures import make_pictures

from latentdiff.errors import UserError
from latentdiff.train_scripts import text_to_image as script
from latentdiff.training.recipes.rehearsal import Estimate, _estimate, launch_line, take_flags
from latentdiff.training.train_config import TrainConfig

FOUND = Estimate(
    seconds_per_step=0.5,
    evaluation_seconds=10.0,
    save_seconds=2.0,
    peak_mib=100.0,
    checkpoint_bytes=1000,
    export_bytes=100,
)


def test_the_rehearsals_own_flags_are_taken_out_and_the_others_left():
    assert take_flags(["--data", "x"]) is None
    words = ["--data", "x", "--rehearse", "--processes", "2", "--steps", "9"]
    assert take_flags(words) == (["--data", "x", "--steps", "9"], 2)
    assert take_flags(["--rehearse", "--processes=3"]) == ([], 3)
    with pytest.raises(UserError, match="--processes is 'two'"):
        take_flags(["--rehearse", "--processes", "two"])


def test_the_whole_runs_time_is_that_of_its_updates_evaluations_and_checkpoints():
    train = TrainConfig(steps=1200, validate_every=400, checkpoint_minutes=5.0)
    # 600 s of updates, five evaluations (start, 400, 800, 1200, the end) of 10 s, two checkpoints.
    assert FOUND.seconds(train) == pytest.approx(650 + 650 / 300 * 2)
    assert FOUND.seconds(dataclasses.replace(train, max_minutes=5.0)) == 300
    assert FOUND.seconds(dataclasses.replace(train, steps=None)) is None
    assert FOUND.disk_bytes(dataclasses.replace(train, keep_checkpoints=3)) == 5 * 1000 + 3 * 100


def test_a_sheet_counts_as_a_look_and_not_as_a_checkpoint(tmp_path):
    for name, size in (("checkpoints/step-00000006", 1000), ("export", 100)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(bytes(size))
    times = {"train": (0.0, 1.0, 1.5), "validate": (3.5,), "sheet": (8.5,), "checkpoint": (9.0,)}
    events = [{"event": name, "time": t} for name, found in times.items() for t in found]
    events.append({"event": "end", "time": 9.1, "processes": [{"peak_mib": 70.0}]})
    found = _estimate(events, tmp_path)
    assert found.evaluation_seconds == pytest.approx(2.0 + 5.0)
    assert found.save_seconds == pytest.approx(0.5)
    assert found.seconds_per_step == pytest.approx(0.75)
    assert (found.checkpoint_bytes, found.export_bytes, found.peak_mib) == (1000, 100, 70.0)


def test_more_processes_are_launched_by_a_config_that_ships():
    assert launch_line(1)[1:] == ["-m", "latentdiff.train_scripts.text_to_image"]
    line = launch_line(3)
    assert line[line.index("--num_processes") + 1] == "3"
    assert line[line.index("--config_file") + 1].endswith(".yaml")


def test_a_run_that_is_shorter_than_its_rehearsal_is_just_run(tmp_path):
    data = make_pictures(tmp_path / "pictures")
    with pytest.raises(UserError, match="just run it"):
        script.main(["--base", "snowglobe", "--data", str(data), "--steps", "3", "--rehearse"])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_rehearsal_trains_kills_resumes_draws_and_leaves_nothing(tmp_path, capsys, processes):
    base = tiny.save(tiny.tiny(), tmp_path / "base")
    data = make_pictures(tmp_path / "pictures")
    options = ["--base", str(base), "--data", str(data), "--run-dir", str(tmp_path / "run")]
    options += ["--batch-size", "4", "--steps", "500", "--validation-pairs", "4"]
    options += ["--sheet-steps", "2", "--rehearse", "--processes", str(processes)]
    before = sorted(path.name for path in tmp_path.iterdir())
    assert script.main(options) == 0
    said = capsys.readouterr().out
    for part in ("1/4", "2/4", "3/4", "4/4", "all parts worked", "peak memory"):
        assert part in said
    assert ("equal weights" in said) == (processes > 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_rehearsal_that_fails_says_why_in_one_line(tmp_path):
    base = tiny.save(tiny.tiny(), tmp_path / "base")
    options = ["--base", str(base), "--data", str(tmp_path / "nowhere"), "--batch-size", "4"]
    with pytest.raises(UserError, match=r"the rehearsal failed .*nowhere"):
        script.main([*options, "--run-dir", str(tmp_path / "run"), "--rehearse"])
