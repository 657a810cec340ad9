//! Ports that are a member's from before anyone learns them until its program has ended.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use socket2::{Domain, Socket, Type};
use xlreg_core::Endpoint;

/// Connections that wait in a passed socket until the program accepts them. The kernel takes its
/// own maximum if that is less.
const BACKLOG: i32 = 4096;

/// Free ports to try before giving up. That one is claimed by somebody else hardly ever happens.
const TRIES: usize = 10;

/// What tells other runs that a port is taken.
#[cfg(target_os = "linux")]
type Claim = std::os::unix::net::UnixListener;
#[cfg(not(target_os = "linux"))]
type Claim = ();

/// A bound TCP socket that does not listen: as long as it lives, the kernel gives its port to nobody
/// who asks for any port. The program it is meant for binds the same port beside it.
///
/// That takes `SO_REUSEADDR` on the program's socket, which nearly every server sets (Go, Java,
/// Node, Rust's standard library and Python's `asyncio` do it by themselves). For one that doesn't,
/// drop this first.
///
/// A port that was asked for by its number, since it is a kept cluster's, may be held by another run
/// just so; the kernel would let both bind it. Therefore each port is claimed among runs, too.
#[derive(Debug)]
pub struct Port {
    socket: Socket,
    address: SocketAddr,
    _claim: Claim,
}

impl Port {
    /// Takes `address`; port 0 stands for any free one.
    ///
    /// # Errors
    /// What the operating system says: the port is taken, or the address is not this machine's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        if address.port() != 0 {
            return Self::bind_claimed(address, claim(address)?);
        }
        for _ in 0..TRIES {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.bind(&address.into())?;
            let address = local_address(&socket)?;
            // Another run has claimed it, and is about to find out that it came too late.
            let claim = match claim(address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                claim => claim?,
            };
            // Only now: a free port must be one that nobody has, whatever its holder's settings.
            socket.set_reuse_address(true)?;
            return Ok(Self { socket, address, _claim: claim });
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// Whether anybody listens at `address`, whoever has it bound.
    #[must_use]
    pub fn is_listened_at(address: SocketAddr) -> bool {
        let bound = || -> io::Result<()> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            // Goes well beside those who have it bound, unless one of them listens.
            socket.bind(&address.into())
        };
        bound().is_err()
    }

    fn bind_claimed(address: SocketAddr, claim: Claim) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // A connection of the last run may still linger in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(Self { socket, address, _claim: claim })
    }

    /// Whose it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, as a member registers it.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.address.to_string().parse().expect("an IP address and a port are an endpoint")
    }

    /// Makes it a listening socket, and returns a handle to pass on. From then on connections are
    /// taken in, and wait until somebody accepts them.
    ///
    /// # Errors
    /// What the operating system says: somebody else listens there by now.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        self.socket.listen(BACKLOG)?;
        self.socket.as_fd().try_clone_to_owned()
    }
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Makes an address one run's, as long as the result lives.
#[cfg(target_os = "linux")]
fn claim(address: SocketAddr) -> io::Result<Claim> {
    crate::loopback::claim(&format!("xlreg/{address}"))
}

#[cfg(not(target_os = "linux"))]
fn claim(_: SocketAddr) -> io::Result<Claim> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn any() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[test]
    fn a_held_port_is_bound_by_the_program_it_is_for_again_and_again() {
        let port = Port::bind(any()).unwrap();
        for _ in 0..3 {
            // The standard library sets SO_REUSEADDR, as servers do.
            let listener = TcpListener::bind(port.address()).unwrap();
            let client = TcpStream::connect(port.address()).unwrap();
            let (server, _) = listener.accept().unwrap();
            // Closed here first, so that this side is the one with a connection in TIME_WAIT.
            drop(server);
            drop(client);
        }
    }

    #[test]
    fn a_held_port_is_given_to_nobody_who_asks_for_any() {
        let held: Vec<_> = (0..200).map(|_| Port::bind(any()).unwrap()).collect();
        let others: Vec<_> = (0..2000).map(|_| Port::bind(any()).unwrap()).collect();
        let listeners: Vec<_> = (0..2000).map(|_| TcpListener::bind(any()).unwrap()).collect();
        let taken = others.iter().map(Port::address);
        let taken = taken.chain(listeners.iter().map(|other| other.local_addr().unwrap()));
        let mut ports: Vec<_> = held.iter().map(Port::address).chain(taken).collect();
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), all, "a port was given twice");
    }

    #[test]
    fn a_passed_socket_takes_connections_in_before_anybody_accepts() {
        let port = Port::bind(any()).unwrap();
        let passed = TcpListener::from(port.listen().unwrap());
        let _client = TcpStream::connect(port.address()).unwrap();
        assert!(passed.accept().is_ok());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_port_that_another_run_holds_is_refused_though_nobody_listens() {
        let held = Port::bind(any()).unwrap();
        let address = held.address();
        assert_eq!(Port::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(held);
        let again = Port::bind(address).unwrap();
        assert_eq!(Port::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(TcpListener::bind(again.address()).is_ok());
    }

    #[test]
    fn a_held_port_is_listened_at_only_while_somebody_does() {
        let port = Port::bind(any()).unwrap();
        assert!(!Port::is_listened_at(port.address()));
        let listener = TcpListener::bind(port.address()).unwrap();
        assert!(Port::is_listened_at(port.address()));
        drop(listener);
        assert!(!Port::is_listened_at(port.address()));
    }

    #[test]
    fn a_port_where_somebody_listens_is_refused() {
        let taken = TcpListener::bind(any()).unwrap();
        let error = Port::bind(taken.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
