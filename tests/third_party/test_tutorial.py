"""The tutorial, step by step, as it is written."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from tests.third_party.conftest import OUTSIDE, PATIENCE, ROOT

PAGE: Final = ROOT / "docs" / "tutorial" / "first-plugin.md"
BLOCK: Final = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_tutorial(core_wheel: Path, tmp_path: Path) -> None:
    """Whoever types what the page says ends with an installed, tested plugin that works."""
    # What is not on an index yet is found beside the wheel that was just built.
    links = " ".join(filter(None, (str(core_wheel.parent), OUTSIDE.get("PIP_FIND_LINKS"))))
    environ = {**OUTSIDE, "PIP_FIND_LINKS": links}
    environ |= {name: os.environ[name] for name in ("EBT_STATE_DIR", "XDG_CONFIG_HOME")}
    script = ["set -eu"]
    for language, name, text in BLOCK.findall(PAGE.read_text("utf-8")):
        if name:
            # Files are written between the steps, by hand, as a reader does.
            script.append(f"mkdir -p \"$(dirname '{tmp_path / name}')\"")
            script.append(f"cat > '{tmp_path / name}' <<'END-OF-FILE'\n{text}END-OF-FILE")
        elif language == "sh":
            script.append(text)
    done = subprocess.run(
        ["sh", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"^counter +active +ebt-counter", done.stdout, re.MULTILINE)
    assert re.search(r"\d+ passed", done.stdout)
    assert done.stdout.rstrip().endswith("5 words"), done.stdout[-500:]
