"""The limits of the protocol, which docs/protocol.md lists under "Limits"."""

from __future__ import annotations

#: Characters of a name, a host, a type, a tag, a reason and any other text.
MAX_TEXT = 256
#: Characters of a service id.
MAX_ID = 512
#: Tags of a service, or of a question.
MAX_TAGS = 64
#: Named ports of a service, and characters of such a name.
MAX_ENDPOINTS, MAX_ENDPOINT_NAME = 32, 64
#: Characters of the protocol that begins an endpoint, such as "tcp".
MAX_SCHEME = 32
MAX_PORT = 65_535
#: Seconds of a ttl, of a watchdog, of a busy block, of a wait and of a timeout: a day.
MIN_TTL, MAX_TTL = 1, 86_400
#: Seconds of a maintenance: a year.
MAX_MAINTENANCE = 365 * 86_400
#: Seconds after 1970 before the year 10000, which is as far as calendars go.
MAX_MOMENT = 253_402_214_400
#: Keys of a `where`, and health states of a question: each costs time for each service.
MAX_KEYS = 8
#: Comparisons in one condition of a `where`, for the same reason.
MAX_COMPARISONS = 8
#: Characters of a version: the longer it is, the longer it takes to read and compare it.
MAX_VERSION = 64
#: Entries that a registration may replace.
MAX_REPLACED = 64
#: Characters of the path of a backup.
MAX_PATH = 4096
#: Events in one reply.
MAX_EVENTS = 1_000

#: Bytes of a request.
MAX_REQUEST = 64 * 1024
#: Bytes of a frame: who sends a longer request is told so up to here, then loses the connection.
MAX_FRAME = 4 * MAX_REQUEST
#: Bytes of a reply or event that a client takes: a list of 100,000 services has 35 million.
MAX_REPLY = 256 * 1024 * 1024
#: Bytes of a list of services. A client would close the connection at a longer reply, and not know.
MAX_LIST = MAX_REPLY - 1024 * 1024
#: Frames of a request, without the identity.
MAX_FRAMES = 8
#: Levels of arrays and objects in a request, the outermost included.
MAX_DEPTH = 32
#: Bytes of a `request_id` in UTF-8.
MAX_REQUEST_ID = 64
