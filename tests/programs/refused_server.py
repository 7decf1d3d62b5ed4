"""Makes a server where there can be none; prints the hint of the error."""

from rsreg import RegistryServer
from rsreg.errors import ConfigurationError

try:
    RegistryServer(0, 0)
except ConfigurationError as error:
    print(error.hint)
