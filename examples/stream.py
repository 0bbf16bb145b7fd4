"""An answer in the terminal, word by word as it comes, and where it came from. Ctrl-C ends it, at the node too.

python examples/stream.py "Tell me a story"
"""

import os
import sys

from sollol import SyncPool

MODEL = os.environ.get("SOLLOL_MODEL", "llama3.2:1b")


def main(question: str) -> None:
    with SyncPool() as pool:
        last = None
        for piece in pool.chat(MODEL, [{"role": "user", "content": question}], stream=True):
            print(piece.message.content or "", end="", flush=True)
            last = piece
        print()
        if last is not None and last.routing is not None:
            seconds = (last.eval_duration or 0) / 1e9
            speed = f"{last.eval_count / seconds:.0f} tokens/s" if seconds and last.eval_count else "speed unknown"
            print(f"[{last.routing.host}, {speed}; {last.routing.reason}]", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]) or "Tell me a story")
    except KeyboardInterrupt:
        sys.exit(130)
