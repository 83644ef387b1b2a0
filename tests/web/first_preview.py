"""How long after the click the first preview is seen: `python tests/web/first_preview.py`.

A warm server of the embedded model, a real browser, `Draw` clicked by a script. Times are of the
browser's clock, from the click to the first change of the large picture.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

import browsing
from browsing import chromium
from serving import make_studio, served

TIMES = 8
CLICK = """
const done = arguments[arguments.length - 1];
const picture = document.querySelector("#picture");
const began = performance.now();
const seen = new MutationObserver(() => {
  if (!picture.src.startsWith("data:")) return;
  seen.disconnect();
  picture.decode().then(() => requestAnimationFrame(() => done(performance.now() - began)));
});
seen.observe(picture, {attributeFilter: ["src"]});
document.querySelector("#draw").click();
"""


def main() -> int:
    browsing.PATIENCE = 120.0
    with tempfile.TemporaryDirectory() as folder:
        studio = make_studio(Path(folder), Path("snowglobe"))
        with served(studio) as server, chromium(Path(folder) / "profile") as page:
            page.open(server.address)
            page.driver.set_script_timeout(120)
            page.write("#prompt", "a cat in the snow")
            found = []
            for _ in range(TIMES + 1):
                found.append(page.driver.execute_async_script(CLICK) / 1000)
                for job in studio.drawing.all():
                    studio.drawing.stop(job)
                page.until(lambda: page.text("#state") == "Stopped.")
    warm = sorted(found[1:])
    print(f"first click {found[0]:.2f} s, then median {statistics.median(warm):.2f} s,", end=" ")
    print(f"{warm[0]:.2f} … {warm[-1]:.2f} s of {TIMES}; load {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
