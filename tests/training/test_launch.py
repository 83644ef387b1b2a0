"""The accelerate configs that ship: accelerate reads them, and starts what they promise."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

from latentdiff.cli import main as cli
from latentdiff.errors import UserError
from latentdiff.training import sharding
from latentdiff.training.launch import CONFIGS, config_path
from latentdiff.training.run import processes
from latentdiff.training.train_config import TrainConfig


def launched(name: str, *options: str) -> SimpleNamespace:
    """What accelerate would start: its arguments, and the environment of the processes."""
    parser = launch_command_parser()
    given = ["--config_file", str(config_path(name)), *options, "-m", "some.module"]
    arguments, _, _ = _validate_launch_command(parser.parse_args(given))
    return SimpleNamespace(arguments=arguments, environment=prepare_multi_gpu_env(arguments))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_there_and_accelerate_knows_all_its_keys(name):
    config = load_config_from_file(str(config_path(name)))  # refuses a key that it does not know
    assert config.num_processes == {"gpu1": 1, "gpu8": 8, "nodes2": 16, "fsdp2": 8, "cpu2": 2}[name]
    assert {path.stem for path in config_path(name).parent.iterdir()} == set(CONFIGS)


@pytest.mark.parametrize("name", ["gpu8", "nodes2", "cpu2"])
def test_a_config_of_several_processes_goes_to_the_launcher_that_starts_them(name):
    # multi_gpu is what sends accelerate to torchrun; otherwise it starts a single process.
    options = ["--machine_rank", "1", "--main_process_ip", "10.0.0.1"] if name == "nodes2" else []
    seen = launched(name, *options)
    assert seen.arguments.multi_gpu and not seen.arguments.use_cpu
    count = {"gpu8": "8", "nodes2": "8", "cpu2": "2"}[name]
    assert seen.arguments.nproc_per_node == count
    assert "ACCELERATE_USE_FSDP" not in seen.environment
    if name == "nodes2":
        assert (seen.arguments.nnodes, seen.arguments.node_rank) == ("2", 1)
        assert seen.arguments.rdzv_endpoint == "10.0.0.1:29500"


def test_the_fsdp_config_asks_for_what_the_loop_does(monkeypatch):
    seen = launched("fsdp2")
    assert seen.arguments.use_fsdp and seen.arguments.nproc_per_node == "8"
    for key, value in seen.environment.items():
        if key.startswith(("FSDP", "ACCELERATE")):
            monkeypatch.setenv(key, value)
    assert processes.fsdp_asked()
    plugin = FullyShardedDataParallelPlugin()
    state = SimpleNamespace(fsdp_plugin=plugin)
    came = SimpleNamespace(distributed_type=DistributedType.FSDP, state=state)
    config = TrainConfig(steps=1)
    processes.check_type(came, config)
    assert (plugin.fsdp_version, plugin.min_num_params) == (2, 2_000_000)
    with pytest.raises(UserError, match="FSDP2: compile"):
        processes.check_type(came, dataclasses.replace(config, compile="default"))


def test_parts_are_chosen_by_size_from_below():
    from torch import nn

    inner = nn.Linear(10, 10)
    module = nn.Sequential(nn.Sequential(inner, nn.ReLU()), nn.Linear(2, 2), nn.Linear(12, 12))
    chosen = [part for part in module.modules() if sharding.by_size(100)(part)]
    assert chosen == [inner, module[2]]


def test_info_prints_a_path_and_knows_the_names(capsys):
    assert cli.run(["info", "--accelerate-config", "cpu2"]) == 0
    assert capsys.readouterr().out.strip() == str(config_path("cpu2"))
    assert cli.run(["info", "--accelerate-config", "gpu9"]) == 2
    assert "unknown accelerate config 'gpu9'; did you mean 'gpu8'" in capsys.readouterr().err
