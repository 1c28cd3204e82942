"""Network addresses as a configuration has them, and which of them only this machine can reach."""

import ipaddress


def host_and_port(address: str) -> tuple[str, int]:
    """The two of 'HOST:PORT'; ValueError where it is none. An IPv6 address stands in brackets, which are left out."""
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether `host` is 'localhost' or an address of the loopback network."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
