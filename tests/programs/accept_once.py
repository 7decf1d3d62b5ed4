"""Listens on a port until somebody has connected and gone: `... PORT`."""

import socket
import sys

socket.create_server(("127.0.0.1", int(sys.argv[1]))).accept()[0].recv(1)
