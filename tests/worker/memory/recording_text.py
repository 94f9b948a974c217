"""An engine that records what it tells MLX about memory."""

from broker.wire.to_workers import Assign
from tests.worker.memory.recording import recorded
from worker.engine import Report
from worker.text.engine import TextEngine


class RecordingText(TextEngine):
    """See recording.py."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(*recorded(assign, report))
