"""Fixtures of the tests of metrics."""

import socket

import pytest


@pytest.fixture
def no_network(monkeypatch):
    """Fail at once on every attempt to connect."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
