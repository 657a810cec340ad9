#!/usr/bin/env python3
"""Records what goes over loopback to and from some TCP ports, as a pcap file.

    capture.py FILE PORT...

Says "capturing" once it does, and goes on until SIGTERM; then every packet that was sent before is in
the file. Ends with 77 if the kernel permits no capture (it takes CAP_NET_RAW), and with 1 if it had to
drop packets. IPv4 only. Needs Linux, and nothing but Python.
"""

import ctypes
import signal
import socket
import struct
import sys
import time

PERMITS_NONE = 77
# From the headers of Linux: if_ether.h, if_packet.h, socket.h.
ETH_P_IP = 0x0800
PACKET_OUTGOING = 4
SOL_PACKET = 263
PACKET_STATISTICS = 6
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
# From the registry of pcap's link types.
LINKTYPE_RAW = 101
BUFFER_BYTES = 64 << 20
PACKET_BYTES = 1 << 18


def tcp_with(ports):
    """A filter of the kernel's (classic BPF): IPv4 packets that carry TCP from or to one of `ports`."""
    load_protocol, load_header_length, load_port, equals, answer = 0x30, 0xB1, 0x48, 0x15, 0x06
    program = [(load_protocol, 0, 0, 9), (equals, 0, None, socket.IPPROTO_TCP)]
    program.append((load_header_length, 0, 0, 0))
    for offset in (0, 2):
        program.append((load_port, 0, 0, offset))
        program.extend((equals, None, 0, port) for port in ports)
    none = len(program)
    program += [(answer, 0, 0, 0), (answer, 0, 0, PACKET_BYTES)]

    def jumps(at, step):
        code, if_so, if_not, value = step
        # What is open jumps to the end: a port that fits to the last line, another protocol before.
        if_so = none + 1 - at - 1 if if_so is None else if_so
        if_not = none - at - 1 if if_not is None else if_not
        return struct.pack("=HBBI", code, if_so, if_not, value)

    return b"".join(jumps(at, step) for at, step in enumerate(program))


def attach(wire, program):
    memory = ctypes.create_string_buffer(program)
    count = len(program) // 8
    wire.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", count, ctypes.addressof(memory))
    )


def main(path, *ports):
    try:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    except PermissionError:
        return PERMITS_NONE
    try:
        wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    except PermissionError:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    attach(wire, tcp_with([int(port) for port in ports]))
    wire.bind(("lo", ETH_P_IP))
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    wire.settimeout(0.1)
    with open(path, "wb") as file:
        file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, PACKET_BYTES, LINKTYPE_RAW))
        print("capturing", flush=True)
        while True:
            if stopped:
                # What was sent before is in the queue, whose end is seen at once.
                wire.settimeout(0)
            try:
                packet, (_, _, kind, *_) = wire.recvfrom(PACKET_BYTES)
            except TimeoutError:
                continue
            except BlockingIOError:
                break
            # Over loopback each packet goes out and comes in.
            if kind != PACKET_OUTGOING:
                seconds, micros = divmod(int(time.time() * 1_000_000), 1_000_000)
                file.write(struct.pack("=IIII", seconds, micros, len(packet), len(packet)))
                file.write(packet)
    _, dropped = struct.unpack("=II", wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    if dropped:
        print(f"error: the kernel has dropped {dropped} packets", file=sys.stderr)
    return 1 if dropped else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: capture.py FILE PORT...")
    sys.exit(main(*sys.argv[1:]))
