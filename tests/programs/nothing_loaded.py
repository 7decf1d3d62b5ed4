"""A test of somebody who does not use the fixture `registry`."""

import sys


def test_nothing_is_loaded() -> None:
    ours = {name for name in sys.modules if name.startswith("rsreg")}
    light = ("", ".pytest_plugin", ".config", ".errors", ".display", ".lazy")
    assert ours <= {f"rsreg{one}" for one in light}
    assert not {"zmq", "msgspec", "gevent", "greenlet", "peewee"} & set(sys.modules)
