from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.types import Endpoint
from sollol.errors import ConfigError
from sollol.wire.address import Address, parse_address, parse_endpoint, parse_ollama_host


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("gpu-box", "http://gpu-box:11434"),
        ("GPU-Box.Local.", "http://gpu-box.local:11434"),
        ("node_1", "http://node_1:11434"),
        ("10.0.0.5", "http://10.0.0.5:11434"),
        ("10.0.0.5:8080", "http://10.0.0.5:8080"),
        (" 10.0.0.5:8080 ", "http://10.0.0.5:8080"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu-box", "https://gpu-box:443"),
        ("HTTP://gpu-box:11434/", "http://gpu-box:11434"),
        ("http://gpu-box:11434/ollama/", "http://gpu-box:11434/ollama"),
        ("https://proxy.example/a/b", "https://proxy.example:443/a/b"),
        ("gpu-box/ollama", "http://gpu-box:11434/ollama"),
        ("[::1]:11434", "http://[::1]:11434"),
        ("[fd00::0005]", "http://[fd00::5]:11434"),
        ("::1", "http://[::1]:11434"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:11434"),
        ("http://[fe80::1%25eth0]:1234", "http://[fe80::1%eth0]:1234"),
        ("[::ffff:10.0.0.5]:80", "http://10.0.0.5:80"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:9999", "http://127.0.0.1:9999"),
        ("[::]:9999", "http://[::1]:9999"),
        (":9999", "http://127.0.0.1:9999"),
        ("localhost:1", "http://localhost:1"),
        ("localhost:65535", "http://localhost:65535"),
        ("gpu-box:", "http://gpu-box:11434"),
    ],
)
def test_forms(text, url):
    assert parse_endpoint(text).url == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty node address"),
        ("   ", "empty node address"),
        ("ftp://host", "http or https"),
        ("host:0", "1 to 65535"),
        ("host:65536", "1 to 65535"),
        ("host:-1", "1 to 65535"),
        ("host:http", "1 to 65535"),
        ("host:٣", "1 to 65535"),
        ("10.0.0.256", "no IPv4 address"),
        ("127.1", "no IPv4 address"),
        ("2130706433", "no IPv4 address"),
        ("0x7f000001", "no IPv4 address"),
        ("[::1", "no node address"),
        ("[::1]11434", "no node address"),
        ("[]", "IPv6"),
        ("[host]:1", "IPv6"),
        ("[::zz]", "no IPv6 address"),
        ("1:2:3", "no IPv6 address"),
        ("fe80::1%a b", "no name of an interface"),
        ("münchen.local", "xn--"),
        ("ho st", "no host name"),
        ("-host", "no host name"),
        ("a..b", "no host name"),
        ("x" * 64, "no host name"),
        (".".join(["x" * 60] * 5), "no host name"),
        ("user:secret@host", "no user or password"),
        ("http://host?x=1", "no host name"),
        ("http://host/a?x=1", "query"),
        ("http://host/a b", "query"),
        ("http://host/../x", "'.' or '..'"),
        ("host\r\nX: y", "1 to 65535"),
        ("host\r\nX", "no host name"),
        ("host/\r\nX: y", "query"),
    ],
)
def test_refused_with_a_reason(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(text)
    assert words in str(caught.value)


def test_a_password_is_not_repeated_in_the_error():
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("http://user:secret@host")
    assert "secret" not in str(caught.value)
    assert parse_endpoint("http://host/a@b").base == "/a@b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a:1", Address(Endpoint("a", 1))),
        (Endpoint("a", 1), Address(Endpoint("a", 1))),
        ({"host": "a"}, Address(Endpoint("a", 11434))),
        ({"host": "a", "port": None, "name": None}, Address(Endpoint("a", 11434))),
        ({"host": "a", "port": 5, "priority": 3}, Address(Endpoint("a", 5), 3)),
        ({"host": "a", "port": "5", "name": " big "}, Address(Endpoint("a", 5), None, "big")),
        ({"host": "a:7"}, Address(Endpoint("a", 7))),
        ({"host": "a:7", "port": 8}, Address(Endpoint("a", 8))),
        ({"host": "fd00::5", "port": 8}, Address(Endpoint("fd00::5", 8))),
        ({"host": "[fd00::5]", "port": 8}, Address(Endpoint("fd00::5", 8))),
        ({"host": "http://a", "port": 8}, Address(Endpoint("a", 8))),
        ({"url": "https://a/x"}, Address(Endpoint("a", 443, True, "/x"))),
    ],
)
def test_addresses(value, expected):
    assert parse_address(value) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "text or a mapping"),
        (None, "text or a mapping"),
        ({}, 'needs a "host"'),
        ({"host": 5}, "has to be text"),
        ({"host": "a", "prot": 5}, "no 'prot'"),
        ({"host": "a", "port": 0}, "1 to 65535"),
        ({"host": "a", "port": 1.5}, "1 to 65535"),
        ({"host": "a", "port": True}, "1 to 65535"),
        ({"host": "a", "port": "x"}, "1 to 65535"),
        ({"host": "a", "priority": 0}, "1 to 10"),
        ({"host": "a", "priority": 11}, "1 to 10"),
        ({"host": "a", "priority": True}, "1 to 10"),
        ({"host": "a", "priority": "high"}, "1 to 10"),
    ],
)
def test_addresses_refused(value, words):
    with pytest.raises(ConfigError) as caught:
        parse_address(value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8888", "http://127.0.0.1:8888"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:8888", "http://[::1]:8888"),
        ("::", "http://[::1]:11434"),
        (":8888", "http://127.0.0.1:8888"),
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:8888", "http://gpu-box:8888"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu-box/ollama/", "https://gpu-box:443/ollama"),
        ("http://", "http://127.0.0.1:80"),
        (" '0.0.0.0:8888' ", "http://127.0.0.1:8888"),
        ('"gpu-box"', "http://gpu-box:11434"),
        ("gpu-box:70000", "http://gpu-box:11434"),
        ("gpu-box:words", "http://gpu-box:11434"),
        ("http://gpu-box:words", "http://gpu-box:80"),
    ],
)
def test_ollama_host(text, url):
    endpoint = parse_ollama_host(text)
    assert endpoint is not None
    assert endpoint.url == url


@pytest.mark.parametrize("text", ["", "  ", '""', "' '"])
def test_ollama_host_that_says_nothing(text):
    assert parse_ollama_host(text) is None


@pytest.mark.parametrize("text", [":0", "ftp://gpu-box", "gpu box"])
def test_ollama_host_refused(text):
    with pytest.raises(ConfigError):
        parse_ollama_host(text)


@given(st.text(max_size=40))
def test_garbage_is_refused_or_read_into_a_url_that_reads_back_the_same(text):
    try:
        endpoint = parse_endpoint(text)
    except ConfigError:
        return
    assert parse_endpoint(endpoint.url) == endpoint
    assert endpoint.url.isascii() and not any(character.isspace() for character in endpoint.url)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_ip_address_and_port_reads_back(address, port):
    endpoint = parse_endpoint(Endpoint(str(address), port).url)
    assert endpoint.port == port
    assert parse_endpoint(endpoint.url) == endpoint
