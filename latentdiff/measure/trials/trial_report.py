"""Trials side by side: a row each, their curves, and the same pictures by all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdiff.evaluation.intervals import Proportion, wilson
from latentdiff.evaluation.judge_network import Judge, judge_pictures
from latentdiff.evaluation.sets.kernel_distance import kid
from latentdiff.evaluation.sets.resampling import Interval, bootstrap
from latentdiff.html.charts import smooth
from latentdiff.measure.measured_model import MeasuredModel
from latentdiff.measure.results.plots import Chart, Line
from latentdiff.measure.results.report import Report, Table, interval, share
from latentdiff.measure.results.store import Arrays, Work
from latentdiff.measure.trials.trial_data import SETTINGS, SUBJECTS, TrialData, brightness
from latentdiff.measure.trials.trial_recipe import TrialRecipe
from latentdiff.measure.trials.trial_training import BINS, run_trial
from latentdiff.measure.vision_features import VisionFeatures
from latentdiff.sheet import axes_sheet

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """arrays: of `run_trial`. off: mean distance of a picture's brightness from the mean of its
    setting's scenes, in levels; follows: correlation of that with the mean of its x_T."""

    name: str
    recipe: TrialRecipe
    arrays: Arrays
    subject: Proportion | None
    setting: Proportion | None
    kid: Interval
    off: Interval
    follows: Interval

    @property
    def diverged(self) -> bool:
        """Whether its pictures ended in infinity."""
        return bool(self.arrays.get("diverged", False))

    @property
    def loss(self) -> float:
        """Held-out squared error, in units of v, evenly over the timesteps."""
        return float(self.arrays["by_level"].mean())


def run_trials(
    model: MeasuredModel,
    data: TrialData,
    named: Sequence[tuple[str, TrialRecipe]],
    count: int,
    features: VisionFeatures,
    judge: Judge | None,
    work: Work,
) -> list[TrialResult]:
    """Train and judge what is missing; [] for one share of several."""

    def key(recipe: TrialRecipe) -> dict[str, Any]:
        return {**data.key, "kind": "trial", "recipe": dataclasses.asdict(recipe), "drawn": count}

    own = [(name, r) for k, (name, r) in enumerate(named) if work.share.mine(k)]
    missing = [recipe for _, recipe in own if not work.store.has(key(recipe))]
    total, before = sum(recipe.updates for recipe in missing), 0
    for recipe in missing:

        def say(done: int, _: int, before: int = before) -> None:
            work.tell(before + done, total)

        work.store.put(key(recipe), run_trial(model, data, recipe, count, say))
        before += recipe.updates
    if not work.whole:
        return []
    real = np.concatenate([features.embed(list(part)) for part in np.array_split(data.pictures, 8)])
    found = []
    for name, recipe in named:
        arrays = work.store.get(key(recipe))
        assert arrays is not None, "it was made above"
        found.append(_judged(name, recipe, arrays, data, features, real, judge))
    return found


def _judged(
    name: str,
    recipe: TrialRecipe,
    arrays: Arrays,
    data: TrialData,
    features: VisionFeatures,
    real: NDArray[np.float32],
    judge: Judge | None,
) -> TrialResult:
    pictures = arrays["pictures"]
    count = len(pictures)
    subjects, settings = data.subject[:count], data.setting[:count]
    right_subject, right_setting = None, None
    if judge is not None:
        verdicts = judge_pictures(judge, list(pictures))
        right_subject = wilson(
            sum(verdicts.top_subjects(n)[0] == SUBJECTS[s] for n, s in enumerate(subjects)), count
        )
        right_setting = wilson(
            sum(verdicts.top_setting(n) == SETTINGS[s] for n, s in enumerate(settings)), count
        )
    light = brightness(data.pictures)
    usual = np.array([light[data.setting == s].mean() for s in range(len(SETTINGS))])
    off = brightness(pictures) - usual[settings]
    made = np.concatenate([features.embed(list(p)) for p in np.array_split(pictures, 4)])
    mean = arrays["noise_mean"]
    return TrialResult(
        name=name,
        recipe=recipe,
        arrays=arrays,
        subject=right_subject,
        setting=right_setting,
        kid=kid(made, real),
        off=bootstrap(lambda rows: float(np.abs(off[rows]).mean()), count, repeats=500),
        follows=bootstrap(lambda rows: _correlation(off[rows], mean[rows]), count, repeats=500),
    )


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    spread = float(a.std() * b.std())
    return 0.0 if spread == 0.0 else float(((a - a.mean()) * (b - b.mean())).mean()) / spread


def trials_report(
    model: MeasuredModel, axis: str, results: Sequence[TrialResult], data: TrialData
) -> Report:
    """The table, loss curves, loss by timestep, and the same prompts and noise by each."""
    base = results[0].recipe
    light = brightness(data.pictures)
    spread = [light[data.setting == s] for s in range(len(SETTINGS))]
    usual = float(np.mean([np.abs(part - part.mean()).mean() for part in spread]))
    header = [
        axis,
        "loss (v)",
        "KID × 1000",
        "subject %",
        "setting %",
        "brightness off",
        "corr. with x_T",
    ]
    rows = []
    for r in results:
        judged = [share(p) if p is not None else "–" for p in (r.subject, r.setting)]
        scaled = f"{1e3 * r.kid.value:.1f} [{1e3 * r.kid.low:.1f}, {1e3 * r.kid.high:.1f}]"
        off, follows = interval(r.off, 1), interval(r.follows, 2)
        if r.diverged:
            scaled, judged, off, follows = "diverged", ["–", "–"], "–", "–"
        rows.append([r.name, f"{r.loss:.4f}", scaled, *judged, off, follows])
    comparable = len(
        {(r.recipe.prediction, r.recipe.weighting, r.recipe.schedule) for r in results}
    )
    place = [(k + 0.5) / BINS for k in range(BINS)]
    charts = [
        Chart(
            name="loss-by-level",
            title="Held-out squared error by timestep, in units of v",
            x_label="t/T",
            y_label="squared error",
            log_y=True,
            lines=[Line(name=r.name, x=place, y=list(r.arrays["by_level"])) for r in results],
        ),
        _bars("brightness", "Brightness off its setting's mean, levels", results, lambda r: r.off),
    ]
    if comparable == 1:
        charts.append(_curves(results))
    if all(r.setting is not None for r in results):
        charts.append(_bars("settings", "Settings named right, %", results, _percent("setting")))
        charts.append(_bars("subjects", "Subjects named right, %", results, _percent("subject")))
    pictures = [r.arrays["pictures"][n] for r in results for n in range(_SHOWN)]
    names = [f"{SUBJECTS[data.subject[n]]}, {SETTINGS[data.setting[n]]}" for n in range(_SHOWN)]
    seconds = ", ".join(f"{float(r.arrays['seconds']):.0f}" for r in results)
    size, drawn = data.pictures.shape[1], len(results[0].arrays["pictures"])
    return Report(
        title=f"Trials of {axis}",
        lead=f"{len(results)} trainings of a U-Net of {int(results[0].arrays['parameters']):,} "
        f"parameters on {len(data.latents):,} scenes of {size} px, latents by {model.name}; the "
        f"same latents, timesteps and noise in all; {base.samples:,} samples each, batch "
        f"{base.batch_size}, {base.optimizer}, unless swept; then {drawn} pictures each by "
        f"DDIM, 25 steps, no guidance; training took {seconds} s",
        tables=[Table(title="Trials", header=header, rows=rows)],
        charts=charts,
        sheets={"pictures": axes_sheet(pictures, names, [r.name for r in results])},
        numbers={"trials": [_numbers(r) for r in results], "usual_brightness_off": usual},
        notes=(
            f"Loss: held-out, evenly over the timesteps. Brightness off: in grey levels of 255; "
            f"real scenes are off by {usual:.1f}. Last column: whether a picture is bright because "
            "its x_T has a high mean, which the prompt never asked for. Diverged: drawing "
            "ended in infinity. 95 % intervals.",
        ),
    )


def _curves(results: Sequence[TrialResult]) -> Chart:
    lines = []
    for r in results:
        losses = smooth(list(r.arrays["loss"]), window=20)
        every = max(1, len(losses) // 60)
        seen = [(k + 1) * r.recipe.batch_size for k in range(len(losses))]
        lines.append(Line(name=r.name, x=seen[every::every], y=losses[every::every]))
    return Chart(
        name="loss",
        title="Training loss, running mean of 20 updates",
        x_label="samples",
        y_label="loss",
        log_y=True,
        lines=lines,
    )


def _percent(name: str) -> Callable[[TrialResult], Any]:
    def get(r: TrialResult) -> Any:
        p = getattr(r, name)
        return Interval(
            value=100 * p.value,
            standard_error=0.0,
            low=100 * p.low,
            high=100 * p.high,
            level=0.95,
            method="wilson",
        )

    return get


def _bars(
    name: str, title: str, results: Sequence[TrialResult], get: Callable[[TrialResult], Any]
) -> Chart:
    results = [r for r in results if not r.diverged]
    found = [get(r) for r in results]
    line = Line(
        name="",
        x=list(range(len(found))),
        y=[i.value for i in found],
        low=[i.low for i in found],
        high=[i.high for i in found],
        points=True,
    )
    names = [r.name.replace("+", "\n") for r in results]
    return Chart(name=name, title=title, x_label="", y_label="", lines=[line], names=names)


def _numbers(r: TrialResult) -> dict[str, Any]:
    return {
        "name": r.name,
        "recipe": dataclasses.asdict(r.recipe),
        "loss": r.loss,
        "diverged": r.diverged,
        "by_level": list(map(float, r.arrays["by_level"])),
        "kid": r.kid.to_json(),
        "subject": None if r.subject is None else r.subject.to_json(),
        "setting": None if r.setting is None else r.setting.to_json(),
        "brightness_off": r.off.to_json(),
        "follows_noise": r.follows.to_json(),
        "seconds": float(r.arrays["seconds"]),
        "terminal_alpha_bar": float(r.arrays["terminal_alpha_bar"]),
    }
