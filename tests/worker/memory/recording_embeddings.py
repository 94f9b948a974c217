"""An engine that records what it tells MLX about memory."""

from broker.wire.to_workers import Assign
from tests.worker.memory.recording import recorded
from worker.embeddings.engine import EmbeddingEngine
from worker.engine import Report


class RecordingEmbeddings(EmbeddingEngine):
    """See recording.py."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(*recorded(assign, report))
