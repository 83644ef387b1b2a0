"""The suite touches no network."""

import os
import socket

import pytest
import pytest_socket


def test_a_connection_to_another_machine_is_refused_in_tests() -> None:
    with pytest.raises(pytest_socket.SocketConnectBlockedError):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)


def test_the_hub_is_offline_in_tests() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
