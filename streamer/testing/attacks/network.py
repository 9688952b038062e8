"""Attacks on the network: servers on the host, and address families with their own ways out."""

from __future__ import annotations

from typing import Final

from streamer.testing.attack import HOST_VISIBLE, Attack

__all__ = ["ATTACKS"]

ATTACKS: Final = (
    Attack(
        "a server on loopback",
        """
        refused(socket.create_connection, ("127.0.0.1", hint["port"]), 2)
        held()
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
    Attack(
        "a server on loopback by IPv6",
        """
        refused(socket.create_connection, ("::ffff:127.0.0.1", hint["port"]), 2)
        held()
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
    Attack(
        "a server on loopback by another name of it",
        """
        for name in ("0.0.0.0", "127.1.2.3", "localhost", socket.gethostname(), "2130706433"):
            with contextlib.suppress(OSError):
                socket.create_connection((name, hint["port"]), 2)
                escaped(name)
        held()
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
    Attack(
        "a receiver of datagrams on loopback",
        """
        # The host's side tells whether it arrived.
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            sock.sendto(b"x", ("127.0.0.1", hint["port"]))
        time.sleep(0.1)
        held("it was sent")
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
    Attack(
        "a port opened on the host",
        """
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("0.0.0.0", hint["door"]))
        sock.listen()
        sock.settimeout(1.5)
        with contextlib.suppress(OSError):
            sock.accept()
            escaped("the host connected")
        held("nobody came")
        """,
        HOST_VISIBLE,
        knocks=True,
        covers=(55,),
    ),
    Attack(
        "an abstract socket of the host",
        """
        sock = socket.socket(socket.AF_UNIX)
        refused(sock.connect, "\\0" + hint["abstract"])
        held()
        """,
        HOST_VISIBLE,
        covers=(47,),
    ),
    Attack(
        "a socket in a folder of others",
        """
        sock = socket.socket(socket.AF_UNIX)
        refused(sock.connect, hint["socket"])
        held()
        """,
        HOST_VISIBLE,
        covers=(46,),
    ),
    Attack(
        "a socket in /run",
        """
        if not hint["run_socket"]:
            held("there is none")
        sock = socket.socket(socket.AF_UNIX)
        refused(sock.connect, hint["run_socket"])
        held()
        """,
        HOST_VISIBLE,
        covers=(46,),
    ),
    Attack(
        "sockets of the system's services",
        """
        for path in ("/run/docker.sock", "/var/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/private",
                     "/run/containerd/containerd.sock", "/run/snapd.socket", "/run/podman/podman.sock"):
            with contextlib.suppress(OSError):
                socket.socket(socket.AF_UNIX).connect(path)
                escaped(path)
        held()
        """,
        HOST_VISIBLE,
        covers=(46,),
    ),
    Attack(
        "the metadata service and private networks",
        """
        for address in (("169.254.169.254", 80), ("10.0.0.1", 80), ("192.168.0.1", 53)):
            sock = socket.socket()
            sock.settimeout(0.3)
            refused(sock.connect, address)
        held()
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
    Attack(
        "an interface other than loopback",
        """
        lines = read("/proc/net/dev").decode().splitlines()[2:]
        others = [line.split(":")[0].strip() for line in lines if "lo:" not in line]
        held() if not others else escaped(others)
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
    Attack(
        "the host's interfaces, addresses and routes by netlink",
        """
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        except OSError as error:
            held(error)
        sock.bind((0, 0))
        own = {i for i, name in socket.if_nameindex() if name == "lo"}
        for kind, index_at in ((18, 4), (22, 4), (26, None), (30, 4)):  # GETLINK, -ADDR, -ROUTE, -NEIGH
            sock.send(struct.pack("=IHHII", 36, kind, 0x301, kind, 0) + bytes(20))
            done = False
            while not done:
                data = sock.recv(1 << 16)
                while len(data) >= 16:
                    size, answer, _, _, _ = struct.unpack_from("=IHHII", data)
                    if answer in (2, 3):  # NLMSG_ERROR, NLMSG_DONE
                        done = True
                    elif index_at is not None:
                        (index,) = struct.unpack_from("=i", data, 16 + index_at)
                        if index not in own:
                            escaped(f"interface {index} in answer to {kind}")
                    else:
                        table, scope = data[16 + 4], data[16 + 6]
                        if table != 255 and scope < 254:  # RT_TABLE_LOCAL, RT_SCOPE_HOST
                            escaped(f"a route in table {table}, scope {scope}")
                    data = data[(size + 3) & ~3 :]
        with contextlib.suppress(OSError):
            sock.setsockopt(270, 8, 1)  # NETLINK_LISTEN_ALL_NSID
            escaped("it hears of all networks")
        held()
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
    Attack(
        "a change of the network by netlink",
        """
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        except OSError as error:
            held(error)
        sock.bind((0, 0))
        lo = dict((name, i) for i, name in socket.if_nameindex())["lo"]
        link = struct.pack("=BxHiII", 0, 0, lo, 0, 0)  # nothing of it changed
        address = struct.pack("=BBBBI", 2, 32, 0, 254, lo) + struct.pack("=HH4s", 8, 2, bytes([127, 9, 9, 9]))
        for kind, body in ((16, link), (19, link), (20, address), (21, address)):  # NEWLINK, SETLINK, -ADDR
            sock.send(struct.pack("=IHHII", 16 + len(body), kind, 0x5, kind, 0) + body)
            data = sock.recv(1 << 16)
            (error,) = struct.unpack_from("=i", data, 16)
            if struct.unpack_from("=IH", data)[1] != 2 or -error not in (errno.EPERM, errno.EOPNOTSUPP):
                escaped(f"{kind} gave {error}")
        held()
        """,
        covers=(55,),
    ),
    Attack(
        "an interface of its own making",
        """
        with contextlib.suppress(OSError):
            tun = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH14x", b"streamer0", 1))  # TUNSETIFF
            escaped("a tunnel")
        with contextlib.suppress(OSError):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # SIOCSIFFLAGS, as they are
            escaped("the flags of an interface")
        held()
        """,
        covers=(55,),
    ),
    Attack(
        "a name server",
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(0.3)
        for server in ("8.8.8.8", "127.0.0.53", "127.0.0.1"):
            try:
                sock.sendto(b"\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x01a\\x02io\\0\\0\\x01\\0\\x01", (server, 53))
                if sock.recv(512):
                    escaped(server)
            except OSError:
                pass
        held()
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
    Attack(
        "raw and packet sockets",
        """
        for family, kind, protocol in ((socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_INET6, socket.SOCK_RAW, 58),
                                       (socket.AF_PACKET, socket.SOCK_RAW, 3), (socket.AF_PACKET, socket.SOCK_DGRAM, 3)):
            with contextlib.suppress(OSError):
                socket.socket(family, kind, protocol)
                escaped((family, kind))
        held()
        """,
        covers=(55,),
    ),
    Attack(
        "the host by a virtual machine's socket",
        """
        for place in (0, 1, 2):  # the hypervisor, this machine, its host
            with contextlib.suppress(OSError):
                sock = socket.socket(40, socket.SOCK_STREAM)  # AF_VSOCK
                sock.settimeout(0.3)
                sock.connect((place, 22))
                escaped(f"vsock {place}")
        held()
        """,
        covers=(48,),
    ),
    Attack(
        "an echo to the world",
        """
        with contextlib.suppress(OSError):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)  # ICMP without privileges
            sock.settimeout(0.3)
            sock.sendto(b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0", ("8.8.8.8", 0))
            escaped("an echo request was sent")
        held()
        """,
        HOST_VISIBLE,
        covers=(55,),
    ),
)
