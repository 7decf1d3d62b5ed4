"""Looks for its own address on the way to a name that nobody knows, with a timeout and without.

Tells twice how that fails and the seconds it took.
"""

from rsreg.client.registration.address import Finder
from rsreg.transport.driver import drive
from tests.programs.lookups import SilentNameServer, tell, timed

name_server = SilentNameServer()
finder = Finder("tcp://registry.lab:4242")
tell(*timed(lambda: drive(finder.find(0.5), lambda _call: {})))
tell(*timed(lambda: drive(finder.find(), lambda _call: {})))
