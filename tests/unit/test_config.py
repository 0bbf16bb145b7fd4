"""Configuration: layers, their order, and one clear line for whatever is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.config import Auth, Config, NodeSettings, default_config_file, default_data_dir
from sollol.config_sources import DEFAULT, client, environment_name, leaves, load
from sollol.core.types import Mode, NodeKind
from sollol.errors import ConfigError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def env(**variables: str) -> dict[str, str]:
    return {"HOME": str(Path.cwd() / "home"), **variables}


def toml(text: str, name: str = "sollol.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_promised_ones():
    loaded = load(environ=env())
    c = loaded.config
    assert (c.gateway.host, c.gateway.port, c.gateway.metrics_port) == ("127.0.0.1", 8000, 0)
    assert (c.queue.limit, c.queue.body_bytes, c.queue.priority_step_seconds) == (1000, 1 << 30, 30.0)
    assert (c.limits.json_body_bytes, c.limits.header_bytes) == (64 << 20, 64 << 10)
    assert (c.health.connect_seconds, c.routing.mode, c.nodes) == (2.0, Mode.BALANCED, ())
    assert set(loaded.sources.values()) == {DEFAULT}
    assert set(loaded.sources) == {path for path, _ in leaves(c)}


def test_each_layer_wins_over_the_one_below():
    toml('[gateway]\nport = 1\nhost = "127.0.0.2"\nmetrics_port = 3\n[queue]\nlimit = 7')
    loaded = load({"gateway.port": 4}, environ=env(SOLLOL_PORT="2", SOLLOL_GATEWAY_METRICS_PORT="5"))
    gateway = loaded.config.gateway
    assert (gateway.port, gateway.host, gateway.metrics_port, loaded.config.queue.limit) == (4, "127.0.0.2", 5, 7)
    assert loaded.sources["gateway.port"] == "--port"
    assert loaded.sources["gateway.host"] == "sollol.toml"
    assert loaded.sources["gateway.metrics_port"] == "SOLLOL_GATEWAY_METRICS_PORT"
    assert loaded.sources["queue.body_bytes"] == DEFAULT


def test_an_argument_that_is_none_says_nothing():
    assert load({"gateway.port": None}, environ=env()).config.gateway.port == 8000


def test_nodes_of_a_file():
    first = 'url = "gpu1"\npriority = 9\nslots = 4\nmemory_gb = 24\nkind = "vllm"\napi_key = "k"'
    toml(f'[[nodes]]\n{first}\n[[nodes]]\nurl = "gpu2:1"')
    loaded = load(environ=env())
    first, second = loaded.config.nodes
    assert first == NodeSettings(url="gpu1", priority=9, slots=4, memory_gb=24.0, kind=NodeKind.VLLM, api_key="k")
    assert (second.url, second.priority, second.slots) == ("gpu2:1", 5, None)
    assert loaded.sources["nodes[0].slots"] == "sollol.toml"
    assert loaded.sources["nodes[1].slots"] == DEFAULT


def test_nodes_of_a_higher_layer_replace_those_below():
    toml('[[nodes]]\nurl = "a"\nslots = 2\n[[nodes]]\nurl = "b"')
    loaded = load(environ=env(SOLLOL_NODES="http://c:11434, d:1 ,"))
    assert [node.url for node in loaded.config.nodes] == ["http://c:11434", "d:1"]
    assert loaded.sources["nodes[0].url"] == "SOLLOL_NODES"
    assert loaded.sources["nodes[0].slots"] == DEFAULT
    named = load({"nodes": ["e"]}, environ=env(SOLLOL_NODES="c", OLLAMA_HOST="f"))
    assert [node.url for node in named.config.nodes] == ["e"]
    assert named.sources["nodes[0].url"] == "--node"


@pytest.mark.parametrize(
    ("value", "nodes"),
    [
        ("", []),
        ("0.0.0.0", ["http://127.0.0.1:11434"]),
        ("gpu:1234", ["http://gpu:1234"]),
        ("https://gpu/base", ["https://gpu:443/base"]),
        ("127.0.0.1:8000", []),  # the gateway itself: set for clients
        ("[::]:8000", []),
    ],
)
def test_ollama_host_names_a_node(value: str, nodes: list[str]):
    loaded = load(environ=env(OLLAMA_HOST=value))
    assert [node.url for node in loaded.config.nodes] == nodes


def test_ollama_host_adds_to_other_nodes_once():
    loaded = load(environ=env(OLLAMA_HOST="b:11434", SOLLOL_NODES="a"))
    assert [node.url for node in loaded.config.nodes] == ["a", "http://b:11434"]
    assert loaded.sources["nodes[1].url"] == "OLLAMA_HOST"
    assert len(load(environ=env(OLLAMA_HOST="b", SOLLOL_NODES="http://b:11434")).config.nodes) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[gateway]\nport = "x"', 'sollol.toml: gateway.port: expected an integer from 0 to 65535, got "x"'),
        ("[gateway]\nport = 70000", "sollol.toml: gateway.port: expected an integer from 0 to 65535, got 70000"),
        ("[gateway]\nport = true", "sollol.toml: gateway.port: expected an integer from 0 to 65535, got true"),
        ("[gateway]\nprot = 1", "sollol.toml: gateway.prot: unknown setting (did you mean port?)"),
        ("[gatway]\nport = 1", "sollol.toml: gatway: unknown setting (did you mean gateway?)"),
        ("[zzzz]", "sollol.toml: zzzz: unknown setting"),
        ("gateway = 1", "sollol.toml: gateway: expected a table, [gateway], got 1"),
        ("[queue]\nlimit = 0", "sollol.toml: queue.limit: expected an integer from 1 to 1000000, got 0"),
        (
            "[health]\nprobe_seconds = nan",
            "sollol.toml: health.probe_seconds: expected a number over 0 and at most 86400, got NaN",
        ),
        ("[health]\nprobe_seconds = inf", "got Infinity"),
        ('[routing]\nmode = "quick"', '"balanced" or "fast" or "reliable" or "async", got "quick"'),
        ('[log]\nformat = "xml"', 'sollol.toml: log.format: expected "json" or "text", got "xml"'),
        ('[gateway]\nuvloop = "maybe"', 'sollol.toml: gateway.uvloop: expected true or false or "auto", got "maybe"'),
        ("[discovery]\nports = 1", "sollol.toml: discovery.ports: expected a list, each an integer from 1 to 65535, got 1"),
        ("[discovery]\nports = [1, 0]", "sollol.toml: discovery.ports[1]: expected an integer from 1 to 65535, got 0"),
        ('[discovery]\nnetworks = ["8.8.8.0/24"]', "'8.8.8.0/24' is not a private network"),
        ('[discovery]\nnetworks = ["10.0.0.0/7"]', "'10.0.0.0/7' is not a private network"),
        ('[discovery]\nnetworks = ["2001:db8::/64"]', "is not a private network"),
        ('[discovery]\nnetworks = ["home"]', "discovery.networks: 'home' is no network"),
        ("[[nodes]]\npriority = 5", "sollol.toml: nodes[0]: url is missing"),
        (
            '[[nodes]]\nurl = "a"\n[[nodes]]\nurl = "a"\npriority = 11',
            "nodes[1].priority: expected an integer from 1 to 10, got 11",
        ),
        ('[[nodes]]\nurl = "http://a:99999"', "sollol.toml: nodes[0].url: "),
        ('[[nodes]]\nurl = ""', "nodes[0].url: expected text that is not empty"),
        ('[[nodes]]\nurl = "a"\nslot = 2', "nodes[0].slot: unknown setting (did you mean slots?)"),
        ('[[nodes]]\nurl = "a"\nkind = "sollol"', "nodes[0].kind: another SOLLOL is not taken for a node"),
        ('[[nodes]]\nurl = "a"\nkind = "ollamma"', '"lmstudio" or "openai", got "ollamma"'),
        ("nodes = 3", "sollol.toml: nodes: expected [[nodes]] tables, got 3"),
        ("nodes = [3]", "sollol.toml: nodes[0]: expected a table or an address, got 3"),
        ("data_dir = 3", "sollol.toml: data_dir: expected a folder, got 3"),
        ('data_dir = "~nobody-here/x"', "names a user who has no home folder here"),
        ("[gateway\n", "sollol.toml: not valid TOML: "),
        ("[gateway]\nport = 1\nport = 2", "sollol.toml: not valid TOML: "),
    ],
)
def test_what_is_wrong_is_one_line_with_its_path(text: str, message: str):
    toml(text)
    with pytest.raises(ConfigError) as caught:
        load(environ=env())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SOLLOL_PORT": "x"}, 'SOLLOL_PORT: gateway.port: expected an integer from 0 to 65535, got "x"'),
        ({"SOLLOL_QUEUE_LIMTI": "5"}, "SOLLOL_QUEUE_LIMTI: unknown setting (did you mean SOLLOL_QUEUE_LIMIT?)"),
        ({"SOLLOL_NODES": "http://a?b"}, "SOLLOL_NODES: nodes[0].url: "),
        ({"SOLLOL_DISCOVERY_NETWORKS": "1.1.1.1"}, "SOLLOL_DISCOVERY_NETWORKS: discovery.networks: "),
        ({"OLLAMA_HOST": "ftp://a"}, "OLLAMA_HOST: "),
        ({"SOLLOL_CONFIG": "nowhere.toml"}, "nowhere.toml: there is no such configuration file (SOLLOL_CONFIG)"),
        ({"SOLLOL_LOG_LEVEL": "loud"}, 'SOLLOL_LOG_LEVEL: log.level: expected "debug"'),
    ],
)
def test_errors_of_the_environment(variables: dict[str, str], message: str):
    with pytest.raises(ConfigError) as caught:
        load(environ=env(**variables))
    assert message in str(caught.value)


def test_text_of_the_environment_becomes_values():
    config = load(
        environ=env(
            SOLLOL_PORT=" 9 ",
            SOLLOL_DISCOVERY_ENABLED="off",
            SOLLOL_DISCOVERY_PORTS="1,2, 3",
            SOLLOL_DISCOVERY_NETWORKS="127.0.0.0/8, fd00::/8",
            SOLLOL_UVLOOP="No",
            SOLLOL_LOG_LEVEL="DEBUG",
            SOLLOL_HEALTH_PROBE_SECONDS="1.5",
            SOLLOL_ROUTING_MODE="FAST",
            SOLLOL_API_KEYS="one,two",
            SOLLOL_DATA_DIR="some",
        )
    ).config
    assert (config.gateway.port, config.discovery.enabled, config.discovery.ports) == (9, False, (1, 2, 3))
    assert config.discovery.networks == ("127.0.0.0/8", "fd00::/8")
    assert (config.gateway.uvloop, config.log.level, config.health.probe_seconds) == (False, "debug", 1.5)
    assert (config.routing.mode, config.auth.keys) == (Mode.FAST, ("one", "two"))
    assert config.data_dir == Path("some").absolute()


def test_an_empty_variable_says_nothing():
    assert load(environ=env(SOLLOL_PORT="", SOLLOL_NODES=" , ")).config == load(environ=env()).config


def test_variables_that_mean_nothing_are_named():
    ignored = load(environ=env(SOLLOL_PRT="1", SOLLOL_URL="http://a", SOLLOL_ADMIN_KEY="k")).ignored
    assert ignored == ("SOLLOL_PRT is set, but there is no such setting (did you mean SOLLOL_PORT?)",)


def test_which_file_is_read():
    toml("[gateway]\nport = 1", "home/.config/sollol/sollol.toml")
    home = env() if sys.platform == "linux" else {}
    if home:
        assert load(environ=home).config.gateway.port == 1
    toml("[gateway]\nport = 2")
    assert load(environ=env()).config.gateway.port == 2
    toml("[gateway]\nport = 3", "third.toml")
    assert load(environ=env(SOLLOL_CONFIG="third.toml")).config.gateway.port == 3
    toml("[gateway]\nport = 4", "fourth.toml")
    loaded = load(file="fourth.toml", environ=env(SOLLOL_CONFIG="third.toml"))
    assert (loaded.config.gateway.port, loaded.sources["gateway.port"]) == (4, "fourth.toml")
    with pytest.raises(ConfigError, match=r"nowhere: there is no such configuration file \(--config\)"):
        load(file="nowhere", environ=env())


def test_a_file_that_cannot_be_looked_at_is_not_there():
    """As in a folder that this user cannot enter; the system has no such name for anybody."""
    no_name = "x" * 300
    assert load(environ=env(HOME=f"/{no_name}", XDG_CONFIG_HOME="", APPDATA="")).config.queue.limit == 1_000
    with pytest.raises(ConfigError, match="there is no such configuration file"):
        load(file=no_name, environ=env())


def test_a_file_that_is_not_text():
    Path("sollol.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"sollol\.toml: not valid TOML"):
        load(environ=env())


def test_an_unknown_argument():
    with pytest.raises(ConfigError, match=r"argument: gateway\.colour: unknown setting"):
        load({"gateway.colour": 1}, environ=env())
    with pytest.raises(ConfigError, match="argument: colour: unknown setting"):
        load({"colour": 1}, environ=env())


SECRET = "sk-very-secret"


@pytest.mark.parametrize(
    "text",
    [
        f'[auth]\nkeys = "{SECRET}"',
        f'[auth]\nkeys = ["{SECRET} with a space"]',
        f'[auth]\nadmin_keys = [["{SECRET}"]]',
        f'[[nodes]]\nurl = "a"\napi_key = ["{SECRET}"]',
    ],
)
def test_errors_do_not_show_keys(text: str):
    toml(text)
    with pytest.raises(ConfigError) as caught:
        load(environ=env())
    assert SECRET not in str(caught.value)


def test_reprs_do_not_show_keys():
    config = Config(auth=Auth(keys=(SECRET,), admin_keys=(SECRET,)), nodes=(NodeSettings(url="a", api_key=SECRET),))
    assert SECRET not in repr(config)
    assert "1 keys" in repr(config)


@pytest.mark.skipif(sys.platform != "linux", reason="the convention of Linux desktops")
def test_folders_of_the_platform():
    home = {"HOME": "/home/ann"}
    assert default_data_dir(home) == Path("/home/ann/.local/share/sollol")
    assert default_data_dir({**home, "XDG_DATA_HOME": "/data"}) == Path("/data/sollol")
    assert default_data_dir({**home, "XDG_DATA_HOME": "relative"}) == Path("/home/ann/.local/share/sollol")
    assert default_config_file(home) == Path("/home/ann/.config/sollol/sollol.toml")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_without_a_name_and_a_home():
    """As containers are often run: under any number."""
    program = (
        "import os; from sollol.config_sources import load; from sollol.drivers.docker import default_sockets;"
        "os.environ.pop('HOME', None); os.setuid(54321); os.chdir('/');"
        "print(load().config.data_dir, default_sockets()[1])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == ("/.local/share/sollol /.docker/run/docker.sock\n", "")


@pytest.mark.parametrize(
    ("platform", "variables", "data", "config"),
    [
        ("darwin", {"HOME": "/Users/ann"}, "/Users/ann/Library/Application Support/sollol", None),
        ("win32", {"LOCALAPPDATA": "/L", "APPDATA": "/R"}, "/L/sollol", "/R/sollol/sollol.toml"),
    ],
)
def test_folders_of_other_platforms(monkeypatch, platform, variables, data, config):
    monkeypatch.setattr(sys, "platform", platform)
    assert default_data_dir(variables) == Path(data)
    assert default_config_file(variables) == Path(config or f"{data}/sollol.toml")


@pytest.mark.parametrize(
    ("url", "variables", "found"),
    [
        (None, {}, "http://127.0.0.1:8000"),
        (None, {"SOLLOL_PORT": "9", "SOLLOL_HOST": "0.0.0.0"}, "http://127.0.0.1:9"),
        (None, {"SOLLOL_HOST": "::"}, "http://[::1]:8000"),
        (None, {"SOLLOL_URL": "http://far:80/x/"}, "http://far:80/x"),
        ("http://near:1", {"SOLLOL_URL": "http://far:80"}, "http://near:1"),
    ],
)
def test_where_commands_find_the_gateway(url, variables, found):
    assert client(url=url, environ=env(**variables)).url == found


def test_the_commands_key_and_a_bad_url():
    assert client(environ=env(SOLLOL_ADMIN_KEY=" k ", SOLLOL_API_KEY="other")).key == "k"
    assert client(environ=env(SOLLOL_API_KEY="other")).key == "other"
    assert client(environ=env()).key is None
    assert "k9" not in repr(client(environ=env(SOLLOL_ADMIN_KEY="k9")))
    with pytest.raises(ConfigError, match="--url: "):
        client(url="ftp://x", environ=env())
    with pytest.raises(ConfigError, match="SOLLOL_URL: "):
        client(environ=env(SOLLOL_URL="ftp://x"))


def test_the_process_environment_is_read_when_none_is_given(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SOLLOL_", "OLLAMA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SOLLOL_PORT", "77")
    assert load().config.gateway.port == 77
    assert client().url == "http://127.0.0.1:77"
    assert Config().data_dir == default_data_dir(os.environ)


@given(st.integers(min_value=1, max_value=65535), st.integers(min_value=1, max_value=1_000_000))
def test_what_is_given_by_variable_or_file_is_the_same(port: int, limit: int):
    path = Path("same.toml")
    path.write_text(f"[gateway]\nport = {port}\n[queue]\nlimit = {limit}\n", encoding="utf-8")
    by_file = load(file=path, environ=env()).config
    names = {environment_name("gateway.port"): str(port), environment_name("queue.limit"): str(limit)}
    assert load(environ=env(**names)).config == by_file


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=4),
        max_size=4,
    )
)
def test_any_arguments_give_a_config_or_a_config_error(values):
    try:
        load({f"gateway.{name}": value for name, value in values.items()}, environ=env())
    except ConfigError as error:
        assert len(str(error)) < 300
