"""Asking a benchmark for what it cannot do."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture
def refusal(capsys):
    """What a benchmark says, in this process, when it refuses its arguments."""
    handler = signal.getsignal(signal.SIGTERM)  # which some replace

    def run(main, *arguments):
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, arguments)))
        assert caught.value.code != 0
        return f"{capsys.readouterr().err}{caught.value}"

    yield run
    signal.signal(signal.SIGTERM, handler)
