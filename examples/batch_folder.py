"""Vectors of every paragraph of the texts in a folder, with a bar on the terminal while they are made.

python examples/batch_folder.py FOLDER vectors.json
"""

import json
import os
import sys
from pathlib import Path

from sollol import SyncPool

EMBEDDER = os.environ.get("SOLLOL_EMBEDDER", "nomic-embed-text")
HERE = Path(__file__).resolve().parent


def paragraphs(path: Path) -> list[str]:
    return [part.strip() for part in path.read_text(encoding="utf-8", errors="replace").split("\n\n") if part.strip()]


def main(folder: Path, written: Path | None) -> None:
    files = sorted(path for kind in ("*.txt", "*.md", "*.py") for path in folder.glob(kind))
    found = [(path.name, text) for path in files for text in paragraphs(path)]
    with SyncPool() as pool:
        vectors = pool.embed_batch(EMBEDDER, [text for _, text in found], errors="return", progress=True)
    done = [
        (name, text, vector) for (name, text), vector in zip(found, vectors, strict=True) if not isinstance(vector, Exception)
    ]
    print(f"{len(done)} paragraphs of {len(files)} files, {len(found) - len(done)} failed")
    if written is not None:
        entries = [{"file": name, "text": text, "vector": list(vector)} for name, text, vector in done]
        written.write_text(json.dumps(entries), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
