#!/usr/bin/env python3
"""Members meet by Python's ssl, as members.sh has exported them into the current directory.

Python is as strict as it is by default from 3.13 on, on both sides.
"""

import socket
import ssl
import threading

STRICT = ssl.VERIFY_X509_STRICT | getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0)


def context(purpose, member, certificate, flags):
    # An impostor takes whom it meets for good.
    trusting = "a" if member == "impostor" else member
    made = ssl.create_default_context(purpose, cafile=f"{trusting}/roster-ca.pem")
    made.load_cert_chain(f"{member}/{certificate}", f"{member}/key.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= flags
    return made


def meet(server, client, name, flags=STRICT):
    """What each side says: the other's names, or why it refuses. Each is a member and its certificate."""
    listener = socket.create_server(("127.0.0.1", 0))
    said = {}

    def side(of, connect):
        try:
            with connect() as connection:
                connection.sendall(b"!")
                connection.recv(1)
                said[of] = {value for _, value in connection.getpeercert()["subjectAltName"]}
        except OSError as error:
            said[of] = str(error)

    def accept():
        wrap = context(ssl.Purpose.CLIENT_AUTH, *server, flags).wrap_socket
        return wrap(listener.accept()[0], server_side=True)

    def connect():
        wrap = context(ssl.Purpose.SERVER_AUTH, *client, flags).wrap_socket
        return wrap(socket.create_connection(listener.getsockname()), server_hostname=name)

    serving = threading.Thread(target=side, args=("server", accept))
    serving.start()
    side("client", connect)
    serving.join()
    listener.close()
    return said


def member(name):
    return name, "cert.pem"


def proved(what):
    print(f"  ok  {what}")


def main():
    for flags in (ssl.VerifyFlags(0), STRICT):
        said = meet(member("b"), member("a"), "127.0.0.2", flags)
        assert "127.0.0.2" in said["client"] and "127.0.0.1" in said["server"], said
        said = meet(member("c"), member("b"), "c.localhost", flags)
        assert "c.localhost" in said["client"] and "127.0.0.2" in said["server"], said
    proved("Python: members meet, also by the strict rules of 3.13, and each sees the other's names")

    refusals = [
        (member("b"), member("a"), "127.0.0.9", "client", "IP address mismatch"),
        (("c", "as-b.pem"), member("a"), "127.0.0.2", "client", "excluded subtree violation"),
        (member("b"), ("c", "as-b.pem"), "127.0.0.2", "server", "excluded subtree violation"),
        (("a", "as-b.pem"), member("a"), "127.0.0.2", "client", "permitted subtree violation"),
        (member("impostor"), member("a"), "127.0.0.2", "client", "certificate verify failed"),
        (member("b"), member("impostor"), "127.0.0.2", "server", "certificate verify failed"),
    ]
    for server, client, name, who, words in refusals:
        said = meet(server, client, name)
        assert words in str(said[who]), (server, client, said)
    proved("Python: who poses as another, and who is of another cluster, is refused on either side")


if __name__ == "__main__":
    main()
