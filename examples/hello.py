#!/usr/bin/env python3
"""A server that greets all its peers once, and then answers whoever comes.

    xlreg run -n 3 -- examples/hello.py
    xlreg run -n 3 --ports passed -- examples/hello.py
    xlreg run -n 3 --tunnel -- examples/hello.py
    xlreg run -n 3 --self-join -- examples/hello.py

It shows what a program of your own needs for each way to get a port.
"""

import json, os, socket, subprocess, time

me = os.environ["XLREG_NAME"]


def listen():
    if "LISTEN_FDS" in os.environ:  # --ports passed: the first socket is number 3, and listens
        return socket.socket(fileno=3)
    if "XLREG_PORT" in os.environ:  # the usual way; create_server sets SO_REUSEADDR
        return socket.create_server((os.environ["XLREG_HOST"], int(os.environ["XLREG_PORT"])))
    # --self-join: any free port, of which the others learn as we join with it.
    server = socket.create_server(("127.0.0.1", 0))
    endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    join = ["xlreg", "join", os.environ["XLREG_CLUSTER"], "--endpoint", endpoint]
    subprocess.run(join, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ["XLREG_ROSTER"] = os.path.join(os.environ["XLREG_DIR"], "roster.json")
    return server


def greet(endpoint):
    host, port = endpoint.rsplit(":", 1)
    while True:
        try:
            with socket.create_connection((host, int(port))) as peer:
                return peer.makefile().readline().strip()
        except ConnectionError:  # bound, but not listening yet: refused, or reset by a --tunnel
            time.sleep(0.05)


server = listen()
with open(os.environ["XLREG_ROSTER"]) as file:
    roster = json.load(file)

if os.fork() == 0:
    peers = [member for member in roster["members"] if member["name"] != me]
    print("heard from", ", ".join(greet(peer["endpoints"][0]) for peer in peers), flush=True)
    os._exit(0)

while True:
    client, _ = server.accept()
    with client:
        client.sendall(f"{me}\n".encode())
