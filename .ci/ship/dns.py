"""A name server for one name: dns.py ADDRESS NAME answers that NAME is 127.0.0.1, and nothing else is known."""

import socket
import sys

ADDRESS, NAME = sys.argv[1], sys.argv[2]
WANTED = b"".join(bytes([len(part)]) + part.encode() for part in NAME.split(".")) + b"\0"

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((ADDRESS, 53))
while True:
    query, peer = server.recvfrom(1500)
    question = query[12 : query.index(b"\0", 12) + 5]
    is_known = question[:-4].lower() == WANTED
    has_answer = is_known and question[-4:-2] == b"\0\1"
    flags = b"\x81\x80" if is_known else b"\x81\x83"
    head = query[:2] + flags + b"\0\1" + (b"\0\1" if has_answer else b"\0\0") + b"\0\0\0\0"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if has_answer else b""
    server.sendto(head + question + answer, peer)
