# The protobuf wire format of the hot messages: requests in, responses out.

from limiter._wire_read cimport Decoder, Request
from limiter._wire_write cimport OutBuffer
