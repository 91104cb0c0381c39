"""Charts as PNG images, painted by Pillow (`pip install raftflow[png]`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raftflow.scheduler.plan.plan import PlanError

if TYPE_CHECKING:
    from raftflow.scheduler.plan.gantt import Chart


def write_png(drawing: Chart, path: Path) -> None:
    """Paint a drawing into a file. Raises `PlanError` if Pillow is not installed, and `OSError`."""
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - optional
    except ImportError:
        raise PlanError("a chart as PNG needs Pillow: pip install 'raftflow[png]'; SVG needs nothing") from None
    image = Image.new("RGB", (drawing.width, drawing.height), "#ffffff")
    canvas = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    for box in drawing.boxes:
        corner = (box.x + box.width - 1, box.y + box.height - 1)
        canvas.rectangle(((box.x, box.y), corner), fill=box.fill, outline=box.edge)
    for label in drawing.labels:
        canvas.text((label.x, label.y), label.text, fill=label.colour, anchor="ls", font=font)
    image.save(path, format="PNG")
