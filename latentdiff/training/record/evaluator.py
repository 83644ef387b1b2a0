"""What is measured and drawn between updates: validation, sheets, the best weights, the report.

RUN/validation/step-XXXXXXXX.json   losses of fixed pairs, compared with the first
RUN/sheets/step-XXXXXXXX.png, .json the pictures, their prompts and commands
RUN/best/                           an export of the best validated step, once there is one
RUN/report.html                     all of it on one page
"""

from __future__ import annotations

import contextlib
from typing import Any

from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.training.logging import Progress, RunLog
from latentdiff.training.paired_losses import PairedLosses
from latentdiff.training.record.run_folder import RunFolder
from latentdiff.training.record.run_report import write_report
from latentdiff.training.record.validation import ValidationLog
from latentdiff.training.task import Sheet, Task


class Evaluator:
    """Validates and draws for one run, on its main process, and keeps what was seen."""

    def __init__(
        self, task: Task, folder: RunFolder, log: RunLog | None, progress: Progress
    ) -> None:
        self.task, self.folder, self.log, self.progress = task, folder, log, progress
        self.validations = ValidationLog(folder.validation)

    def validate(self, module: Any, step: int) -> dict[str, float]:
        """Validate; returns the curves' values. A best step's weights are exported."""
        found = self.task.validate(module, step)
        if isinstance(found, PairedLosses):
            recorded = self.validations.record(step, found)
            scalars, line = recorded.scalars, recorded.line
            if recorded.best:
                with files.publish_folder(self.folder.best) as best:
                    self.task.export(module, best)
                    files.write_json(best / "step.json", {"step": step, "why": recorded.line})
        else:
            scalars = dict(found)
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in scalars.items())
            line = f"step {step}: {numbers}"
        if scalars:
            if self.log is not None:
                self.log.scalars("validate", step, scalars)
            self.progress.say(f"{self.task.name}: {line}")
        return scalars

    def draw(self, module: Any, step: int) -> None:
        """Draw the sample sheet, if the task has one."""
        sheet = self.task.sheet(module, step)
        if sheet is None:
            return
        place = self.folder.sheets / f"step-{step:08d}.png"
        if isinstance(sheet, Sheet):
            rows = zip(sheet.prompts, sheet.commands, sheet.boxes, strict=True)
            content = [{"prompt": p, "command": c, "box": list(b)} for p, c, b in rows]
            files.write_json(place.with_suffix(".json"), {"step": step, "pictures": content})
            sheet = sheet.image
        with files.atomic_path(place) as path:
            sheet.save(path)
        if self.log is not None:
            self.log.write("sheet", step, file=place.name)

    def report(self, step: int) -> None:
        """Write report.html afresh; where it cannot be written, say so and let the run go on."""
        try:
            write_report(self.folder.path)
        except UserError as error:
            self.progress.say(f"{self.task.name}: no report at step {step}: {error}")
            if self.log is not None:
                with contextlib.suppress(OSError):  # the disk that had no room for the page
                    self.log.write("no_report", step, message=str(error))
