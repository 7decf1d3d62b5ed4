"""A driver on a random port: `... ENDPOINT [exclusive]`; prints the port that is registered."""

import sys

import zmq

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1], timeout=10)
socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
socket.bind_to_random_port("tcp://127.0.0.1")
exclusive = "exclusive" in sys.argv
with client.registered("puna_cs", socket=socket, service_type="PUNA", exclusive=exclusive) as puna:
    service = client.get_service(puna.service_id)
    print(service["port"] if service else "", flush=True)
    sys.stdin.read()
