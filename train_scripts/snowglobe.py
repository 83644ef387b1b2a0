"""Train the embedded model from nothing: scenes, VAE, CLIP, judge, latents, U-Net, one folder.

    python -m latentdiff.train_scripts.snowglobe --networks h100 --run-dir RUN
    python -m latentdiff.train_scripts.snowglobe --networks h100 --run-dir RUN --follow OUT

Every stage is a process of its own with its log in RUN/logs. A stage that is done leaves
RUN/stages/NAME.json and is skipped the next time; one that was cut off goes on from its newest
checkpoint. `--follow` watches a run that another process makes, for a while, then collects what
there is into OUT.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentdiff import config as configs
from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.training.recipes.stages import Stage, say, tidy

PROG = "python -m latentdiff.train_scripts.snowglobe"
PID, SETTINGS = "recipe.pid", "recipe.yaml"


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Where and how long."""

    run_dir: Path
    """Folder of the run: logs, checkpoints, exports, the finished model."""
    scratch: Path | None = None
    """Folder for the pool and the latent cache, some 65 kB a scene; None keeps them in run_dir."""
    networks: Literal["cpu", "h100", "tiny"] = "h100"
    """Preset of every training stage."""
    seed: int = 0
    """Seed of every run."""
    world_seed: int = 0
    """World of the training scenes."""
    size: int = 128
    """Side of the pictures; the networks' preset must agree."""
    scenes: int = 200_000
    """Scenes in the pool."""
    early_scenes: int = 40_000
    """The autoencoder starts once so many are rendered, and sees only those."""
    judge_scenes: int = 40_000
    """Scenes in the judge's pool."""
    workers: int = 0
    """Rendering processes; 0 means one a core."""
    total_minutes: float = 22.0
    """From the start of the recipe to the finished model; the U-Net gets what the others leave."""
    vae_minutes: float = 5.5
    clip_minutes: float = 2.0
    judge_minutes: float = 2.0
    tail_minutes: float = 1.0
    """Kept for the last sheet, assembling and packing."""
    vae_options: str = ""
    """More options of the VAE stage, as on its command line; write --vae-options="--crop 64"."""
    clip_options: str = ""
    judge_options: str = ""
    unet_options: str = ""
    warm_compile: bool = True
    """Compile the U-Net while the autoencoder trains, so that its stage starts at once."""
    part_mib: float = 15.0
    """Size of the parts that the finished folder is cut into."""
    follow: Path | None = None
    """Watch a run that is under way instead of making it; collect its results into this folder."""
    follow_minutes: float = 9.0
    """How long to watch at most."""
    stage: Literal["", "render", "encode", "assemble"] = ""
    """Do this one step in this process; the recipe itself uses it."""

    def __post_init__(self) -> None:
        spent = max(self.vae_minutes, self.clip_minutes, self.judge_minutes) + self.tail_minutes
        if not spent < self.total_minutes:
            raise UserError(
                f"total_minutes is {self.total_minutes}; the stages before the U-Net and the tail "
                f"already take {spent}"
            )

    @property
    def pool(self) -> Path:
        return (self.scratch or self.run_dir) / "pool"

    @property
    def judge_pool(self) -> Path:
        return (self.scratch or self.run_dir) / "judge_pool"

    @property
    def cache(self) -> Path:
        return (self.scratch or self.run_dir) / "cache"

    def place(self, stage: str) -> Path:
        """A stage's own folder."""
        return self.run_dir / stage


def own(config: RecipeConfig, stage: str, *more: str) -> list[str]:
    """Command line of one of this module's own stages."""
    command = ["-m", "latentdiff.train_scripts.snowglobe", "--stage", stage]
    command += ["--run-dir", str(config.run_dir), "--scenes", str(config.scenes)]
    command += ["--world-seed", str(config.world_seed), "--workers", str(config.workers)]
    command += ["--size", str(config.size)]
    if config.scratch is not None:
        command += ["--scratch", str(config.scratch)]
    return [*command, *more]


def training(
    config: RecipeConfig, script: str, minutes: float, options: str, *more: str
) -> list[str]:
    """Command line of a training stage, resuming when there is something to resume."""
    place = config.place(script)
    command = ["-m", f"latentdiff.train_scripts.{script}", "--preset", config.networks]
    command += ["--run-dir", str(place), "--seed", str(config.seed)]
    command += ["--max-minutes", f"{minutes:.3f}", *more, *shlex.split(options)]
    if any(place.glob("checkpoints/step-*")):
        command.append("--resume")
    return command


def train(
    config: RecipeConfig, script: str, minutes: float, options: str, *more: str
) -> Callable[[Sequence[Stage]], None]:
    """Start a training stage; the result waits for it, and tries again without compiling.

    Compiling depends on the machine's own compiler; a run without it is slower but whole.
    """
    stage = Stage(config.run_dir, script, training(config, script, minutes, options, *more))

    def wait(others: Sequence[Stage]) -> None:
        if not stage.finish(others, needed=config.networks != "h100"):
            plain = f"{options} --compile ''"
            say(f"{script}: once more, not compiled")
            again = Stage(config.run_dir, script, training(config, script, minutes, plain, *more))
            again.finish(others)

    return wait


def run(config: RecipeConfig) -> None:
    """The whole recipe."""
    begin = time.monotonic()
    config.run_dir.mkdir(parents=True, exist_ok=True)
    configs.save_yaml(config, config.run_dir / SETTINGS)
    files.write_text(config.run_dir / PID, str(os.getpid()))
    pool = ("--pool", str(config.pool))
    render = Stage(config.run_dir, "render", own(config, "render"))
    wait_for_rows(config, render)
    early = ("--pool-rows", str(min(config.early_scenes, config.scenes)))
    vae = train(config, "vae", config.vae_minutes, config.vae_options, *pool, *early)
    render.finish(Stage.begun)
    clip = train(config, "clip", config.clip_minutes, config.clip_options, *pool)
    judge_pool = ["--pool", str(config.judge_pool), "--render", str(config.judge_scenes)]
    judge_pool += ["--render-workers", str(config.workers)]
    judge = Stage(
        config.run_dir,
        "judge",
        training(config, "judge", config.judge_minutes, config.judge_options, *judge_pool),
    )
    if config.warm_compile:
        probe = ["-m", "latentdiff.train_scripts.probe", "--networks", config.networks]
        probe += ["--updates", "3", f"--options={config.unet_options}"]
        Stage(config.run_dir, "warm", probe)
    vae(Stage.begun)
    Stage(config.run_dir, "encode", own(config, "encode")).finish(Stage.begun)
    clip(Stage.begun)
    minutes = config.total_minutes - config.tail_minutes - (time.monotonic() - begin) / 60
    parts = ("--vae", str(config.place("vae")), "--clip", str(config.place("clip")))
    cache = ("--cache", str(config.cache))
    unet = train(
        config,
        "text_to_image",
        max(minutes, 0.1),
        config.unet_options,
        *(*pool, *cache, *parts),
    )
    unet(Stage.begun)
    judge.finish(needed=False)
    Stage(config.run_dir, "assemble", own(config, "assemble")).finish()
    say(f"the model stands in {config.place('snowglobe')}")


def wait_for_rows(config: RecipeConfig, render: Stage) -> None:
    """Until the pool holds what the autoencoder starts with."""
    from latentdiff.data.rendered.pixel_pool import SPEC, PixelPool

    wanted = min(config.early_scenes, config.scenes)
    while render.running:
        time.sleep(0.2)
        if (config.pool / SPEC).exists() and PixelPool(config.pool).ready >= wanted:
            return
    render.finish()


def render_stage(config: RecipeConfig) -> None:
    """Render the pool."""
    from latentdiff.data.rendered.pixel_pool import build_pool
    from latentdiff.progress import Progress

    os.nice(5)  # compiling and training, which wait for nobody, come first
    build_pool(
        config.pool,
        world_seed=config.world_seed,
        count=config.scenes,
        size=config.size,
        workers=config.workers or os.cpu_count() or 1,
        progress=Progress("rendered", seconds=2.0),
    )


def encode_stage(config: RecipeConfig) -> None:
    """Encode the pool with the trained autoencoder."""
    from latentdiff.progress import Progress
    from latentdiff.training.recipes.snowglobe_parts import encode_pool

    progress = Progress("encoded", seconds=2.0)
    encode_pool(config.place("vae"), config.pool, config.cache, progress=progress)


def assemble_stage(config: RecipeConfig) -> None:
    """Put the finished folder together from the newest exports."""
    from latentdiff.training.recipes.snowglobe_parts import assemble

    judge = config.place("judge") / "export"
    folder = assemble(
        config.place("snowglobe"),
        unet=config.place("text_to_image") / "export",
        clip=config.place("clip") / "export",
        pool=config.pool,
        judge=judge if judge.is_dir() else None,
    )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"assembled {folder}: {size / 1e6:.1f} MB", flush=True)


def collect(config: RecipeConfig, out: Path) -> None:
    """At most eight files of what there is: model or exports in parts, logs, numbers, sheets."""
    from latentdiff.training.recipes.snowglobe_parts import pack

    out.mkdir(parents=True, exist_ok=True)
    whole, unfinished = config.place("snowglobe"), config.place("text_to_image") / "export"
    finished = config.run_dir / "stages" / "assemble.json"
    if not finished.exists() and unfinished.is_dir():
        try:
            assemble_stage(config)
        except (UserError, OSError) as error:
            print(f"nothing assembled yet: {error}", flush=True)
    if whole.is_dir():
        pack({"snowglobe": whole}, out, "snowglobe", part_mib=config.part_mib)
    else:
        exports = {stage: config.place(stage) / "export" for stage in ("vae", "clip", "judge")}
        done = {name: folder for name, folder in exports.items() if folder.is_dir()}
        if done:
            pack(done, out, "exports", part_mib=config.part_mib)
    logs = sorted((config.run_dir / "logs").glob("*.log"))
    text = "\n".join(f"== {log.stem}\n{tidy(log)}" for log in logs)
    (out / "logs.txt").write_text(text[-8_000_000:], "utf-8")
    metrics = [
        f'{{"stage": "{log.parent.name}"}}\n{log.read_text("utf-8")}'
        for log in sorted(config.run_dir.glob("*/log.jsonl"))
    ]
    (out / "metrics.jsonl").write_text("\n".join(metrics)[-8_000_000:], "utf-8")
    for stage in ("vae", "text_to_image"):
        sheets = sorted((config.place(stage) / "sheets").glob("*.png"))
        if sheets:
            (out / f"{stage}.png").write_bytes(sheets[-1].read_bytes())
    for file in sorted(out.iterdir()):
        print(f"{file.name}: {file.stat().st_size:,} bytes", flush=True)


def follow(config: RecipeConfig, out: Path) -> None:
    """Watch until the recipe ends, well or not, or the time is up; then collect."""
    log, shown = config.run_dir / "recipe.log", 0
    until = time.monotonic() + 60 * config.follow_minutes
    while True:
        alive = runs(config.run_dir / PID)
        text = log.read_text("utf-8", "replace") if log.exists() else ""
        print(text[shown:], end="", flush=True)
        shown = len(text)
        done = (config.run_dir / "stages" / "assemble.json").exists()
        if done or not alive or time.monotonic() > until:
            break
        time.sleep(1)
    if (config.run_dir / SETTINGS).exists():
        config = configs.load_yaml(RecipeConfig, config.run_dir / SETTINGS)
    collect(config, out)


def runs(pid_file: Path) -> bool:
    """Whether the recipe's process lives (or has not even said its number yet)."""
    if not pid_file.exists():
        return True
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Run the recipe, one stage of it, or watch it."""
    steps = {"render": render_stage, "encode": encode_stage, "assemble": assemble_stage}
    try:
        config = configs.parse(RecipeConfig, argv, prog=PROG, description=__doc__ or "")
        if config.follow is not None:
            follow(config, config.follow)
        elif config.stage:
            steps[config.stage](config)
        else:
            run(config)
    except UserError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr, flush=True)
        return 2
    finally:
        for stage in Stage.begun:
            stage.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
