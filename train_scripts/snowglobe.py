"""Train the embedded model from nothing: scenes, VAE, CLIP, judge, latents, text, U-Net, a folder.

    python -m latentdiff.train_scripts.snowglobe --networks cpu2 --run-dir RUN
    python -m latentdiff.train_scripts.snowglobe --networks cpu2 --run-dir RUN --ship v2
    python -m latentdiff.train_scripts.snowglobe --networks h100 --run-dir RUN

Every stage is a process of its own with its log in RUN/logs. A stage that is done leaves
RUN/stages/NAME.json and is skipped the next time; one that was cut off, at whatever moment, goes on
from its newest checkpoint when the same command is given again. On two cores the U-Net trains at a
constant rate until it is stopped; `--ship NAME` branches off its newest checkpoint, lets the rate
fall to zero and puts a whole model into RUN/NAME, while the training itself can be continued.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentdiff import config as configs
from latentdiff.errors import UserError
from latentdiff.scenes.catalog import core_subjects
from latentdiff.training.recipes.stages import Stage, say

PROG = "python -m latentdiff.train_scripts.snowglobe"


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Where, how long, and on what."""

    run_dir: Path
    """Folder of the run: logs, checkpoints, exports, the finished model."""
    scratch: Path | None = None
    """Folder for the pools and the latent cache, 230 kB a scene; None keeps them in run_dir."""
    networks: Literal["cpu2", "h100", "tiny"] = "cpu2"
    """For two processes on two cores (the presets called cpu), one GPU, or a trial."""
    seed: int = 0
    """Seed of every run."""
    world_seed: int = 0
    """World of the training scenes."""
    size: int = 256
    """Side of the pictures; the networks' preset must agree."""
    scenes: int = 16_384
    """Scenes in the pool of the autoencoder and of CLIP, which see all base subjects."""
    drawn_scenes: int | None = None
    """Scenes in the pool of the text tower and of the U-Net; by default five eighths of `scenes`
    for 48 subjects, as many for all."""
    drawn_pairs: float = 0.6
    """Share of these scenes that show two subjects."""
    subjects: Literal["", "core", "all"] = ""
    """What the U-Net learns to draw: 48 or 126 subjects; by default the 48 on two cores."""
    judge_scenes: int = 16_384
    """Scenes in the judge's pool."""
    workers: int = 0
    """Rendering processes; 0 means one a core."""
    vae_minutes: float = 40.0
    clip_minutes: float = 15.0
    judge_minutes: float = 10.0
    text_minutes: float = 20.0
    """The text tower, towards the latents that captions let one expect."""
    unet_minutes: float = 180.0
    """Longest training of the U-Net, over all sittings."""
    vae_options: str = ""
    """More options of the VAE stage, as on its command line; write --vae-options="--crop 64"."""
    clip_options: str = ""
    judge_options: str = ""
    text_options: str = ""
    unet_options: str = ""
    warm_compile: bool = False
    """Compile the U-Net while the autoencoder trains, so that its stage starts at once (GPU)."""
    ship: str = ""
    """Make a whole model, of this name, from the newest checkpoint of the U-Net, and end."""
    ship_steps: int = 600
    """Updates over which the rate falls to zero before a model is put together."""
    stage: Literal["", "render", "encode", "assemble"] = ""
    """Do this one step in this process; the recipe itself uses it."""

    def __post_init__(self) -> None:
        if self.ship and Path(self.ship).name != self.ship:
            raise UserError(f"ship is {self.ship!r}; a plain name was expected, such as v2")
        if self.ship_steps < 1:
            raise UserError(f"ship_steps is {self.ship_steps}; at least 1 was expected")

    @property
    def room(self) -> Path:
        """Where pools and cache lie."""
        return self.scratch or self.run_dir

    @property
    def pool(self) -> Path:
        return self.room / "pool"

    @property
    def drawn_pool(self) -> Path:
        return self.room / "drawn_pool"

    @property
    def cache(self) -> Path:
        """Latents of the drawn pool."""
        return self.room / "cache"

    @property
    def drawn_count(self) -> int:
        """Scenes in the drawn pool."""
        return self.drawn_scenes or self.scenes * (5 if self.drawn_subjects else 8) // 8

    @property
    def drawn_subjects(self) -> tuple[str, ...] | None:
        """Keys of what the U-Net learns to draw; None: all base subjects."""
        core = self.subjects == "core" or (not self.subjects and self.networks == "cpu2")
        return core_subjects() if core else None

    def place(self, stage: str) -> Path:
        """A stage's own folder."""
        return self.run_dir / stage


def own(config: RecipeConfig, stage: str, *more: str) -> list[str]:
    """Command line of one of this module's own stages."""
    command = ["-m", "latentdiff.train_scripts.snowglobe", "--stage", stage]
    command += ["--run-dir", str(config.run_dir), "--networks", config.networks]
    command += ["--scenes", str(config.scenes), "--subjects", config.subjects]
    command += ["--drawn-scenes", str(config.drawn_count)]
    command += ["--drawn-pairs", str(config.drawn_pairs)]
    command += ["--world-seed", str(config.world_seed), "--workers", str(config.workers)]
    command += ["--size", str(config.size), "--ship", config.ship]
    if config.scratch is not None:
        command += ["--scratch", str(config.scratch)]
    return [*command, *more]


def training(config: RecipeConfig, script: str, place: Path, options: str, *more: str) -> list[str]:
    """Command line of a training stage, resuming when there is something to resume."""
    command = [*launcher(config), f"latentdiff.train_scripts.{script}"]
    preset = "cpu" if config.networks == "cpu2" else config.networks
    command += ["--preset", preset, "--run-dir", str(place), "--seed", str(config.seed)]
    command += [*more, *shlex.split(options)]
    if any(place.glob("checkpoints/step-*")):
        command.append("--resume")
    return command


def launcher(config: RecipeConfig) -> list[str]:
    """What starts a training: Python itself, or accelerate with two processes of one thread."""
    if config.networks != "cpu2":
        return ["-m"]
    from latentdiff.training.launch import config_path

    return ["-m", "accelerate.commands.launch", "--config_file", str(config_path("cpu2")), "-m"]


def train(
    config: RecipeConfig, script: str, minutes: float, options: str, *more: str
) -> Callable[[Sequence[Stage]], None]:
    """Start a training stage; the result waits for it, and on a GPU tries again without compiling.

    Compiling depends on the machine's own compiler; a run without it is slower but whole.
    """
    place, limit = config.place(script), ("--max-minutes", f"{minutes:.3f}")
    stage = Stage(config.run_dir, script, training(config, script, place, options, *limit, *more))

    def wait(others: Sequence[Stage]) -> None:
        if not stage.finish(others, needed=config.networks != "h100"):
            plain = f"{options} --compile ''"
            say(f"{script}: once more, not compiled")
            again = training(config, script, place, plain, *limit, *more)
            Stage(config.run_dir, script, again).finish(others)

    return wait


def run(config: RecipeConfig) -> None:
    """Everything up to the trained U-Net; on two cores one stage after the other."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    beside = config.networks == "h100"
    pool = ("--pool", str(config.pool))
    Stage(config.run_dir, "render", own(config, "render")).finish()
    waiting = [train(config, "vae", config.vae_minutes, config.vae_options, *pool)]
    if not beside:
        waiting.pop()(Stage.begun)
    waiting.append(train(config, "clip", config.clip_minutes, config.clip_options, *pool))
    if not beside:
        waiting.pop()(Stage.begun)
    judges = ["--pool", str(config.room / "judge_pool"), "--render", str(config.judge_scenes)]
    judges += ["--render-workers", str(config.workers)]
    waiting.append(train(config, "judge", config.judge_minutes, config.judge_options, *judges))
    if beside and config.warm_compile:
        probe = ["-m", "latentdiff.train_scripts.probe", "--networks", config.networks]
        probe += ["--updates", "3", f"--options={config.unet_options}"]
        Stage(config.run_dir, "warm", probe)
    for wait in waiting:
        wait(Stage.begun)
    Stage(config.run_dir, "encode", own(config, "encode")).finish(Stage.begun)
    drawn = (*latents(config), "--clip", str(config.place("clip")))
    train(config, "text", config.text_minutes, config.text_options, *drawn)(Stage.begun)
    # On two cores the U-Net has no end of its own: `ship` decays a branch of it.
    parts = (*unet_data(config), *(("--lr-schedule", "constant") if open_ended(config) else ()))
    unet = train(config, "text_to_image", config.unet_minutes, config.unet_options, *parts)
    unet(Stage.begun)
    if open_ended(config):
        say(f"the U-Net stands in {config.place('text_to_image')}; --ship NAME makes a model of it")
    else:
        assemble_from(config, config.place("text_to_image"), "snowglobe")


def open_ended(config: RecipeConfig) -> bool:
    """Whether the U-Net trains at a constant rate, for as long as there is time."""
    return config.networks == "cpu2"


def latents(config: RecipeConfig) -> tuple[str, ...]:
    """The scenes, their latents, and the autoencoder that made them."""
    places = {"pool": config.drawn_pool, "cache": config.cache, "vae": config.place("vae")}
    return tuple(word for name, place in places.items() for word in (f"--{name}", str(place)))


def unet_data(config: RecipeConfig) -> tuple[str, ...]:
    """What the U-Net is trained from: scenes, their latents, and the frozen networks."""
    return (*latents(config), "--clip", str(config.place("text")))


def ship(config: RecipeConfig) -> None:
    """Decay from the newest checkpoint in a run of its own, then put the folder together."""
    newest = sorted(config.place("text_to_image").glob("checkpoints/step-*"))
    if not newest:
        raise UserError(f"{config.place('text_to_image')} holds no checkpoint; train first")
    name = f"decay-{config.ship}"
    place = config.place(name)
    begin = ("--decay-from", str(newest[-1])) if not any(place.glob("checkpoints/step-*")) else ()
    steps = ("--steps", str(config.ship_steps), "--lr-schedule", "wsd", *begin)
    options = (*unet_data(config), *steps)
    command = training(config, "text_to_image", place, config.unet_options, *options)
    Stage(config.run_dir, name, command).finish()
    assemble_from(config, place, config.ship)


def assemble_from(config: RecipeConfig, unet: Path, name: str) -> None:
    """Put the model called `name` together from a U-Net's run."""
    more = ("--ship", name) if not config.ship else ()
    command = own(config, "assemble", *more)
    stage = Stage(config.run_dir, f"assemble-{name}", command)
    stage.finish()
    say(f"the model stands in {config.place(name)}, its U-Net from {unet}")


def render_stage(config: RecipeConfig) -> None:
    """Render both pools."""
    from latentdiff.data.rendered.pixel_pool import build_pool
    from latentdiff.progress import Progress

    for folder, count, subjects, pairs in (
        (config.pool, config.scenes, None, None),
        (config.drawn_pool, config.drawn_count, config.drawn_subjects, config.drawn_pairs),
    ):
        build_pool(
            folder,
            world_seed=config.world_seed,
            count=count,
            size=config.size,
            subjects=subjects,
            pair_rate=pairs,
            workers=config.workers or os.cpu_count() or 1,
            progress=Progress("rendered", seconds=2.0),
        )


def encode_stage(config: RecipeConfig) -> None:
    """Encode what is drawn with the trained autoencoder."""
    from latentdiff.progress import Progress
    from latentdiff.training.recipes.snowglobe_parts import encode_pool

    progress = Progress("encoded", seconds=2.0)
    encode_pool(config.place("vae"), config.drawn_pool, config.cache, progress=progress)


def assemble_stage(config: RecipeConfig) -> None:
    """Put the finished folder together from the newest exports."""
    from latentdiff.training.recipes.snowglobe_parts import assemble

    decayed = config.place(f"decay-{config.ship}")
    unet = decayed if decayed.is_dir() else config.place("text_to_image")
    folder = assemble(
        config.place(config.ship),
        unet=unet / "export",
        clip=config.place("clip") / "export",
        pool=config.drawn_pool,
        judge=config.place("judge") / "export",
    )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"assembled {folder}: {size / 1e6:.1f} MB", flush=True)


def main(argv: Sequence[str]) -> int:
    """Run the recipe, ship what it has, or do one stage of it."""
    steps = {"render": render_stage, "encode": encode_stage, "assemble": assemble_stage}
    try:
        config = configs.parse(RecipeConfig, argv, prog=PROG, description=__doc__ or "")
        if config.stage:
            steps[config.stage](config)
        elif config.ship:
            ship(config)
        else:
            run(config)
    except UserError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print(f"{PROG}: stopped; the same command goes on", file=sys.stderr, flush=True)
        return 130
    finally:
        for stage in Stage.begun:
            stage.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
