"""An adapter that lets any diffusers scheduler walk in our loop, with our noise.

diffusers is untyped and slow to import: it is imported on first use, and typed Any.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from latentdiff.diffusion.noise_schedule import NoiseSchedule
from latentdiff.diffusion.prediction import to_x_0
from latentdiff.diffusion.timesteps import Step
from latentdiff.errors import UserError
from latentdiff.schedulers.base import required_noise
from latentdiff.schedulers.protocol import StepResult
from latentdiff.schedulers.scheduler_config import SchedulerConfig, told_fields


class _GivenNoise(TorchFunctionMode):
    """Within it, torch.randn answers with the noise it was given.

    diffusers' samplers draw inside `step`, all of them by torch.randn and few of them with an
    argument to hand the noise in. The mode is local to the thread. `draws` counts the requests.
    """

    def __init__(self, noise: Tensor | None) -> None:
        super().__init__()
        self.noise = noise
        self.draws = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        settings = dict(kwargs or {})
        if func is not torch.randn:
            return func(*args, **settings)
        self.draws += 1
        size = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
        if self.noise is None or tuple(size) != tuple(self.noise.shape) or self.draws > 1:
            given = "none" if self.noise is None else f"one of shape {tuple(self.noise.shape)}"
            raise ValueError(f"draw {self.draws} asks for noise {tuple(size)}, given {given}")
        return self.noise.to(device=settings.get("device"), dtype=settings.get("dtype"))


class ForeignScheduler:
    """A diffusers scheduler, driven by position in its own list of timesteps.

    Steps may repeat a timestep (Heun) or fall between two (Euler on a spread grid). State is kept
    from step to step; a step that does not follow the one before starts a walk of its own from a
    fresh copy, so that one object serves many walks.
    """

    def __init__(
        self,
        scheduler: Any,
        schedule: NoiseSchedule,
        *,
        prediction_type: str,
        eta: float | None = None,
    ) -> None:
        self._fresh = scheduler
        self._active: Any = None
        self._expected = -1
        self.schedule = schedule
        self.prediction_type: str = prediction_type
        self._settings: dict[str, Any] = {} if eta is None else {"eta": eta}
        self.name: str = type(scheduler).__name__
        self.order = int(getattr(scheduler, "order", 1))
        listed = [_number(t) for t in scheduler.timesteps.tolist()]
        self._grid = tuple(
            Step(t, t_prev, index)
            for index, (t, t_prev) in enumerate(zip(listed, [*listed[1:], -1], strict=True))
        )
        self._draws = self._rehearse()

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of x at the first step, in the scheduler's own scaling."""
        return float(self._fresh.init_noise_sigma)

    def grid(self) -> tuple[Step, ...]:
        """One step for each time the network is asked."""
        return self._grid

    def scale_input(self, x: Tensor, step: Step) -> Tensor:
        """x as the network knows it, with variance ᾱ·data + (1 − ᾱ)."""
        active = self._at(step)
        scaled: Tensor = active.scale_model_input(x, active.timesteps[step.index])
        return scaled

    def signal_and_noise(self, step: Step) -> tuple[float, float]:
        """What `add_noise` makes of data and of noise at this step."""
        fresh = copy.deepcopy(self._fresh)
        if hasattr(fresh, "set_begin_index"):
            fresh.set_begin_index(step.index)
        if not hasattr(fresh, "add_noise"):
            raise UserError(f"{self.name} cannot start from a picture; use another scheduler")
        one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        at = fresh.timesteps[step.index : step.index + 1]
        return float(fresh.add_noise(one, none, at)), float(fresh.add_noise(none, one, at))

    def needs_noise(self, step: Step) -> bool:
        """Whether the scheduler draws noise in this step; found by rehearsal."""
        return self._draws[step.index]

    def step(
        self, prediction: Tensor, x: Tensor, step: Step, noise: Tensor | None = None
    ) -> StepResult:
        """One move. x_0 is the scheduler's own, or what the prediction implies at step.t."""
        active = self._at(step)
        shown = active.scale_model_input(x, active.timesteps[step.index])
        given = required_noise(noise, x) if self.needs_noise(step) else None
        with _GivenNoise(given):
            result = active.step(
                prediction.to(device=x.device, dtype=x.dtype),
                active.timesteps[step.index],
                x,
                **self._settings,
            )
        self._expected = step.index + 1
        x_0 = getattr(result, "pred_original_sample", None)
        if x_0 is None:
            x_0 = to_x_0(
                prediction.to(device=x.device, dtype=x.dtype),
                shown,
                self._alpha_bar(step.t),
                prediction_type=self.prediction_type,
            )
        return StepResult(x=result.prev_sample.to(x.dtype), x_0=x_0.to(x.dtype))

    def _at(self, step: Step) -> Any:
        """The scheduler in the state that this step continues."""
        if self._active is None or step.index != self._expected:
            self._active = copy.deepcopy(self._fresh)
            if hasattr(self._active, "set_begin_index"):
                self._active.set_begin_index(step.index)
            self._expected = step.index
        return self._active

    def _rehearse(self) -> tuple[bool, ...]:
        """Walk once with a handful of numbers: which steps draw noise, and whether any fails."""
        drew = []
        active = copy.deepcopy(self._fresh)
        if hasattr(active, "set_begin_index"):
            active.set_begin_index(0)
        x = torch.full((1, 1, 2, 2), 0.5)
        for step in self._grid:
            t = active.timesteps[step.index]
            shown = active.scale_model_input(x, t)
            with _GivenNoise(torch.zeros_like(x)) as mode:
                try:
                    result = active.step(0.1 * shown, t, x, **self._settings)
                except (ValueError, IndexError, NotImplementedError, AttributeError) as error:
                    raise UserError(
                        f"{self.name} cannot walk this grid with {self.prediction_type!r} "
                        f"prediction: {_one_line(error)}"
                    ) from error
            drew.append(mode.draws > 0)
            x = result.prev_sample
        return tuple(drew)

    def _alpha_bar(self, t: float) -> float:
        """ᾱ at a timestep that may lie between two: log SNR is interpolated."""
        low = min(max(int(t), 0), self.schedule.num_train_timesteps - 1)
        share = min(max(t - low, 0.0), 1.0)
        if share == 0.0 or low + 1 == self.schedule.num_train_timesteps:
            return self.schedule.alpha_bar_at(low)
        pair = self.schedule.alpha_bar[low : low + 2].clamp(min=1e-12)
        log_snr = torch.log(pair / (1.0 - pair))
        return float(torch.sigmoid(torch.lerp(log_snr[0], log_snr[1], share)))


def foreign_class(name: str) -> Any | None:
    """The diffusers scheduler class of this name, None when there is none."""
    import diffusers  # seconds: only when a scheduler of diffusers is asked for

    found = getattr(diffusers, name, None)
    try:
        return found if inspect.isclass(found) and hasattr(found, "set_timesteps") else None
    except ImportError as error:  # diffusers' stand-in for a class whose packages are missing
        raise UserError(_one_line(error)) from error


def make_foreign(
    class_name: str,
    config: SchedulerConfig,
    overrides: Mapping[str, Any],
    *,
    num_inference_steps: int | None,
    timesteps: Sequence[int] | None,
    eta: float | None,
) -> ForeignScheduler:
    """A diffusers scheduler of this class, from `config`, in the adapter.

    Raises UserError when the class is missing, needs a package that is not here, or has no use
    for a setting.
    """
    if (num_inference_steps is None) == (timesteps is None):
        raise UserError("give either num_inference_steps or a list of timesteps, not both")
    if num_inference_steps is not None and not 1 <= num_inference_steps <= (
        config.num_train_timesteps
    ):
        raise UserError(
            f"num_inference_steps must be 1 … {config.num_train_timesteps}, "
            f"found {num_inference_steps}"
        )
    schedule = config.noise_schedule()
    if config.prediction_type == "epsilon" and schedule.has_zero_terminal_snr:
        raise UserError(
            "prediction type 'epsilon' cannot be sampled under zero terminal SNR: "
            "use a checkpoint with 'v_prediction' or 'sample'"
        )
    cls = foreign_class(class_name)
    if cls is None:
        raise UserError(f"the installed diffusers has no usable scheduler {class_name}")
    if "eta" not in inspect.signature(cls.step).parameters:
        if eta:
            raise UserError(f"the scheduler {class_name} has no use for eta: leave it out")
        eta = None
    accepted = inspect.signature(cls.__init__).parameters
    for setting in overrides:
        if setting not in accepted:
            raise UserError(f"the scheduler {class_name} has no use for {setting}: leave it out")
    told = told_fields(config)  # a field that nobody set keeps this class's own default
    settings = {key: value for key, value in told.items() if key in accepted}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            scheduler = cls.from_config(settings, **overrides)
        if timesteps is None:
            scheduler.set_timesteps(num_inference_steps)
        elif "timesteps" in inspect.signature(cls.set_timesteps).parameters:
            scheduler.set_timesteps(timesteps=list(timesteps))
        else:
            raise UserError(f"the scheduler {class_name} takes no list of timesteps")
    except (ImportError, ValueError, IndexError, NotImplementedError) as error:
        raise UserError(f"{class_name} refuses this config: {_one_line(error)}") from error
    return ForeignScheduler(scheduler, schedule, prediction_type=config.prediction_type, eta=eta)


def _number(t: float) -> int | float:
    return int(t) if float(t).is_integer() else float(t)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
