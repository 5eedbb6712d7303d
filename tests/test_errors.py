"""Our exceptions."""

from __future__ import annotations

import pickle

from router.errors import ConfigError


def test_every_fault_of_a_configuration_comes_whole_out_of_another_process() -> None:
    fault = pickle.loads(pickle.dumps(ConfigError(["one.", "two."])))
    assert isinstance(fault, ConfigError)
    assert fault.faults == ["one.", "two."]
    assert fault.message == "one.\ntwo."
