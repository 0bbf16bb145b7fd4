from hypothesis import example, given
from hypothesis import strategies as st

from sollol.wire.sse import Event, Events

SSE = 'event: ping\r\ndata: {"a":1}\r\n\r\n: comment\n\ndata:two\ndata:  lines\n\nid: 7\n\ndata: é\n\ndata: open'.encode()


def cuts(text: bytes) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.integers(0, len(text)), max_size=len(text)).map(
        lambda places: [text[a:b] for a, b in zip([0, *sorted(places)], [*sorted(places), len(text)], strict=True)]
    )


@given(cuts(SSE))
@example([SSE])
@example([SSE[i : i + 1] for i in range(len(SSE))])
def test_events_are_the_same_whatever_the_cut(pieces: list[bytes]) -> None:
    events = Events()
    found = [event for piece in pieces for event in events.feed(piece)]
    assert found == [Event(b'{"a":1}', "ping"), Event(b"two\n lines"), Event("é".encode())]
    assert events.finish() == [Event(b"open")]
    assert events.finish() == []
