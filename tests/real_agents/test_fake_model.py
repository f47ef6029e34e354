"""The fake model API itself, asked by a plain HTTP client: needs no agent."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_tasks.testing import leak_guard
from eventbus_tasks.testing.agents import (
    CLAUDE,
    CliUnavailableError,
    FakeModelAPI,
    find_cli,
    huge_text,
    install_cli,
    isolated_environment,
)


class Client:
    """One connection to an API."""

    def __init__(self, api: FakeModelAPI) -> None:
        self._http = http.client.HTTPConnection(api.url.removeprefix("http://"), timeout=30)

    def ask(self, *messages: Any, stream: bool = False, **more: Any) -> http.client.HTTPResponse:
        """Send messages, strings being prompts."""
        sent = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
        body = {"model": "m", "messages": sent, "stream": stream, **more}
        headers = {"content-type": "application/json", "x-api-key": "right"}
        self._http.request("POST", "/v1/messages?beta=true", json.dumps(body), headers)
        return self._http.getresponse()

    def answer(self, *messages: Any, **more: Any) -> Any:
        """Send messages and return the JSON of the answer."""
        return json.loads(self.ask(*messages, **more).read())

    def close(self) -> None:
        """Leave."""
        self._http.close()


def text_of(message: Any) -> str:
    """Return the text of a whole message."""
    return "".join(block["text"] for block in message["content"])


def events_of(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the data of server-sent events, as they come."""
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def result(text: str) -> dict[str, Any]:
    """Return a message with the result of a tool."""
    block = {"type": "tool_result", "tool_use_id": "t", "content": text}
    return {"role": "user", "content": [block]}


SHELL = [{"name": "Bash"}, {"name": "Write"}]


@pytest.fixture
def api() -> Iterator[FakeModelAPI]:
    """Return an API that leaves nothing behind."""
    with leak_guard(), FakeModelAPI() as opened:
        yield opened


@pytest.fixture
def client(api: FakeModelAPI) -> Iterator[Client]:
    """Return a connection."""
    opened = Client(api)
    yield opened
    opened.close()


def test_script_goes_on_with_each_result(client: Client) -> None:
    """The steps of a prompt are done one after the other, one for each result of a tool."""
    prompt = "please\nfake:shell ls -l\nfake:write /a/b two words\nfake:text The end"
    first = client.answer(prompt, tools=SHELL)
    assert first["stop_reason"] == "tool_use"
    assert (first["content"][0]["name"], first["content"][0]["input"]) == (
        "Bash",
        {"command": "ls -l"},
    )
    second = client.answer(prompt, result("x"), tools=SHELL)
    assert second["content"][0]["input"] == {"file_path": "/a/b", "content": "two words"}
    assert text_of(client.answer(prompt, result("x"), result("y"), tools=SHELL)) == "The end"
    assert text_of(client.answer(prompt, result("x"), result("y"), result("z"))) == "Done."


def test_last_prompt_is_the_script(client: Client) -> None:
    """An earlier prompt of the conversation is not carried out again; notes are no prompts."""
    note = {"type": "text", "text": "<system-reminder>\nfake:error 500\n</system-reminder>"}
    old = {"role": "user", "content": [note, {"type": "text", "text": "fake:shell ls"}]}
    assert text_of(client.answer(old, result("x"), "fake:history")) == "fake:shell ls\nfake:history"
    assert text_of(client.answer(old, "and now?")) == "You said: and now?"
    late = {"role": "user", "content": [*result("x")["content"], {"type": "text", "text": "hint"}]}
    assert text_of(client.answer("fake:shell ls\nfake:text two", late)) == "two"


def test_stream_and_whole_say_the_same(client: Client) -> None:
    """A streamed answer adds up to the whole one, whatever its size."""
    prompt = "fake:huge 100000"
    whole = text_of(client.answer(prompt))
    assert whole == huge_text(100_000)
    assert len(whole) == 100_000
    events = list(events_of(client.ask(prompt, stream=True)))
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == whole
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]


def test_streamed_tool_call(client: Client) -> None:
    """The arguments of a tool come in pieces of JSON."""
    events = list(events_of(client.ask("fake:shell echo ü", stream=True, tools=SHELL)))
    pieces = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert json.loads("".join(piece["partial_json"] for piece in pieces)) == {"command": "echo ü"}


def test_errors(api: FakeModelAPI, client: Client) -> None:
    """An error has its status and its type; a flaky API gives in; a bad script is told."""
    for status, kind in [(400, "invalid_request_error"), (429, "rate_limit_error")]:
        response = client.ask(f"fake:error {status}")
        assert response.status == status
        assert json.loads(response.read())["error"]["type"] == kind
    found = [client.ask("fake:flaky 2 500") for _ in range(1)]
    assert [response.status for response in found] == [500]
    found[0].read()
    assert client.answer("fake:flaky 2 500")["type"] == "error"
    assert text_of(client.answer("fake:flaky 2 500")) == "Done at last."
    assert "fake:nonsense" in client.answer("fake:nonsense")["error"]["message"]
    assert [exchange.status for exchange in api.exchanges] == [400, 429, 500, 500, 200, 400]


def test_key() -> None:
    """An API with a key refuses every other one."""
    for key, status in [("right", 200), ("other", 401)]:
        with leak_guard(), FakeModelAPI(key=key) as api:
            client = Client(api)
            response = client.ask("hello")
            response.read()
            assert response.status == status
            client.close()


@pytest.mark.parametrize("scenario", ["silent", "stall", "slow 1000 0.01"])
def test_client_that_leaves_is_noticed(api: FakeModelAPI, scenario: str) -> None:
    """An exchange is open while its client waits, and cut when the client has left."""
    client = Client(api)
    asking = threading.Thread(target=_ask_quietly, args=(client, scenario))
    asking.start()
    api.wait_until(lambda api: bool(api.open_exchanges))
    assert api.open_connections == 1
    client._http.sock.shutdown(2)  # what the kernel does when a client is killed
    asking.join()
    client.close()
    api.wait_idle()
    assert [exchange.state for exchange in api.exchanges] == ["cut"]


def _ask_quietly(client: Client, scenario: str) -> None:
    try:
        client.ask(f"fake:{scenario}", stream=True).read()
    except (OSError, http.client.HTTPException):
        pass


def test_connection_is_cut(api: FakeModelAPI, client: Client) -> None:
    """`fake:drop` ends the connection in the middle of an answer."""
    response = client.ask("fake:drop", stream=True)
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    api.wait_until(lambda api: not api.open_exchanges)
    assert [exchange.state for exchange in api.exchanges] == ["cut"]


def test_close_lets_everybody_go() -> None:
    """Closing the API ends its threads, and the connections of clients that still wait."""
    with leak_guard():
        api = FakeModelAPI()
        client = Client(api)
        asking = threading.Thread(target=_ask_quietly, args=(client, "silent"))
        asking.start()
        api.wait_until(lambda api: bool(api.open_exchanges))
        api.close()
        api.close()
        asking.join()
        client.close()
        assert api.open_connections == 0


def test_wait_that_is_given_up(api: FakeModelAPI) -> None:
    """A condition that does not become true fails, and says what was asked."""
    with pytest.raises(AssertionError, match="0 connections"):
        api.wait_until(lambda api: bool(api.exchanges), 0.01)


def test_isolation(tmp_path: Path) -> None:
    """Agents get a home of their own, and nothing that a user has set for agents or proxies."""
    base = {"PATH": "/bin", "ANTHROPIC_MODEL": "x", "CLAUDECODE": "1", "HTTPS_PROXY": "y"}
    found = isolated_environment(tmp_path, "http://127.0.0.1:1", base=base, key="")
    assert found["PATH"] == "/bin"
    assert found["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
    assert not {"ANTHROPIC_MODEL", "ANTHROPIC_API_KEY", "CLAUDECODE", "HTTPS_PROXY"} & set(found)
    assert Path(found["HOME"]).is_relative_to(tmp_path)
    assert Path(found["HOME"]).is_dir()


def test_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without npm, or before the installation, it is said in words what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CliUnavailableError, match="npm"):
        install_cli(CLAUDE, tmp_path / "npm")
    with pytest.raises(CliUnavailableError, match="not installed"):
        find_cli(CLAUDE, tmp_path)
