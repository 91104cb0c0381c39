from pathlib import Path

import pytest

from raftflow.agent.config import AgentConfig, AgentConfigError, load_config


def write(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text)
    return file


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    text = '[agent]\npeers = ["http://file:1"]\ntoken = "file"\nprefetch = 3\nname = "f"\n'
    file = write(tmp_path, text)
    env = {"RAFTFLOW_PEERS": "http://env:1, http://env:2", "RAFTFLOW_TOKEN": "env"}
    config = load_config(file, env, {"name": "flag", "prefetch": None})
    assert config.peers == ("http://env:1", "http://env:2")
    assert (config.token, config.prefetch, config.name) == ("env", 3, "flag")


def test_resources_are_merged_over_the_machines_own(tmp_path: Path) -> None:
    file = write(tmp_path, '[agent]\npeers = ["http://x:1"]\nresources = { gpu = 2, memory = "2GiB" }\n')
    config = load_config(file, {}, {"resources": {"cpu": "1.5"}})
    assert config.capacity() == {"cpu": 1500, "gpu": 2000, "memory": 2048}
    default = load_config(None, {"RAFTFLOW_PEERS": "http://x:1"}, {}).capacity()
    assert default["cpu"] >= 1000
    assert default["memory"] > 0


def test_each_process_is_an_instance_of_its_own() -> None:
    first, second = (AgentConfig(peers=("http://x:1",)) for _ in range(2))
    assert first.instance != second.instance


@pytest.mark.parametrize(
    ("text", "flags", "named"),
    [
        ("[agent]\nprefetch = 1\n", {}, ["peers", "RAFTFLOW_PEERS"]),
        ('[agent]\npeers = ["http://x:1"]\nprefetch = -1\n', {}, ["prefetch", "agent.toml"]),
        ('[agent]\npeers = ["http://x:1"]\nprefech = 1\n', {}, ["prefech", "agent.toml"]),
        ('[agent]\npeers = ["x:1"]\n', {}, ["peers", "agent.toml", "http://host"]),
        ('[agent]\npeers = ["http://x:1"]\n', {"resources": {"memory": "lots"}}, ["resources", "flag", "memory"]),
        ('[agent]\npeers = ["http://x:1"]\n', {"name": "a b"}, ["name", "flag"]),
        ('[agent]\npeers = ["http://x:1"]\ncacert = "/nowhere.pem"\n', {}, ["cacert", "agent.toml"]),
        ("[other]\n", {}, ["agent.toml", "[agent]"]),
        ("[agent\n", {}, ["agent.toml", "TOML"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_source(
    tmp_path: Path, text: str, flags: dict[str, object], named: list[str]
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(AgentConfigError) as caught:
        load_config(file, {}, flags)
    for word in named:
        assert word in str(caught.value)
