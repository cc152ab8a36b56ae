//! Address of `--listen`, and the listener on it.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::net::listen;
use thiserror::Error;

use crate::control::{MAX_SOCKET_PATH, SocketFile, bind_file};
use closewait_engine::text::harmless_path;

/// Prefix of an address that other hosts reach. It asks for the second time: metrics have no authentication.
const REMOTE: &str = "remote:";
/// Mode of a Unix socket: the user and the group of the agent may connect.
const SOCKET_MODE: u32 = 0o660;
/// Maximum number of connections that wait in the kernel to be accepted, at most `net.core.somaxconn`. Above it, a client
/// tries to connect again only after a second (`TCP_TIMEOUT_INIT`, include/net/tcp.h, v6.18).
const BACKLOG: i32 = 4096;

/// Address at which the agent serves metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// Address and port: of loopback, or, with the prefix `remote:`, any other.
    Tcp(SocketAddr),
    /// Absolute path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            if !path.is_absolute() {
                return Err("write unix: and an absolute path, for example unix:/run/closewait/metrics.sock".to_owned());
            }
            let length = path.as_os_str().len();
            if length > MAX_SOCKET_PATH {
                return Err(format!(
                    "the path has {length} bytes, and the path of a socket at most {MAX_SOCKET_PATH}; write a shorter one, \
                     for example unix:/run/closewait/metrics.sock"
                ));
            }
            return Ok(Self::Unix(path));
        }
        let remote = text.strip_prefix(REMOTE);
        let address: SocketAddr = remote
            .unwrap_or(text)
            .parse()
            .map_err(|_error| "write 127.0.0.1:9753, [::1]:9753, unix:/PATH or remote:ADDRESS:PORT".to_owned())?;
        if remote.is_none() && !address.ip().is_loopback() {
            return Err(format!(
                "it is not a loopback address, and metrics name services and peers without any authentication; \
                 listen on 127.0.0.1 or unix:/PATH, and let a collector on this host or an authenticating proxy forward them; \
                 or write {REMOTE}{address} where a firewall or network policy decides who may connect"
            ));
        }
        Ok(Self::Tcp(address))
    }
}

/// Failure to listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another program listens there.
    #[error("listening on {0} failed: another program has the address\nhint: choose another port, or stop that program:\n    ss -ltnp 'sport = :{port}'", port = .0.port())]
    InUse(SocketAddr),
    /// The kernel refuses the address.
    #[error(
        "listening on {address} failed: {error}\nhint: choose another address, or listen on unix:/PATH; a systemd unit needs AF_INET and AF_INET6 in RestrictAddressFamilies="
    )]
    Tcp {
        /// Address.
        address: SocketAddr,
        /// Error of the call.
        error: io::Error,
    },
    /// The socket file cannot be created.
    #[error("listening on unix:{path} failed: {problem}\nhint: choose another path for --listen, in a folder that this user may write to", path = .path.display())]
    Unix {
        /// Path of the socket.
        path: PathBuf,
        /// Problem and its cause.
        problem: String,
    },
}

/// Bound address, on which clients can connect and wait.
#[derive(Debug)]
pub struct MetricsListener {
    pub(super) socket: ListeningSocket,
    /// File of a Unix socket.
    pub(super) file: Option<SocketFile>,
}

/// Non-blocking socket of a [`MetricsListener`].
#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl ListenAddress {
    /// Listens on the address. Replaces a Unix socket that an agent has left behind; leaves any other file unchanged.
    ///
    /// # Errors
    ///
    /// If another program has the address, or the kernel refuses it.
    pub fn bind(&self) -> Result<MetricsListener, BindError> {
        match self {
            Self::Tcp(address) => {
                let failed = |error: io::Error| {
                    if error.kind() == io::ErrorKind::AddrInUse {
                        BindError::InUse(*address)
                    } else {
                        BindError::Tcp { address: *address, error }
                    }
                };
                let listener = TcpListener::bind(address).map_err(failed)?;
                // The standard library's own limit is 128.
                listen(&listener, BACKLOG).map_err(|errno| failed(errno.into()))?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(MetricsListener { socket: ListeningSocket::Tcp(listener), file: None })
            }
            Self::Unix(path) => {
                let failed = |problem| BindError::Unix { path: path.clone(), problem };
                let (listener, file, warnings) =
                    bind_file(path, SOCKET_MODE).map_err(|error| failed(error.problem()))?;
                listen(&listener, BACKLOG).map_err(|errno| failed(errno.to_string()))?;
                for what in warnings {
                    log::warn!("{what}");
                }
                Ok(MetricsListener { socket: ListeningSocket::Unix(listener), file: Some(file) })
            }
        }
    }
}

impl MetricsListener {
    /// Returns the address and port of a TCP listener; `None` for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.local_addr().ok(),
            ListeningSocket::Unix(_) => None,
        }
    }
}

impl fmt::Display for MetricsListener {
    /// Writes the address at which clients connect: with the port that the kernel chose, if the user left it open.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            ListeningSocket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "http://{address}/metrics"),
                Err(error) => write!(f, "an unknown address (getsockname: {error})"),
            },
            ListeningSocket::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname()).unwrap_or(Path::new("?"));
                write!(f, "unix:{}", harmless_path(path.as_os_str().as_encoded_bytes()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpStream, time::Duration};

    use super::*;

    #[test]
    fn other_addresses_than_loopback_need_a_prefix_and_paths_are_absolute() {
        for good in ["127.0.0.1:9753", "127.9.9.9:1", "[::1]:9753"] {
            assert_eq!(good.parse(), Ok(ListenAddress::Tcp(good.parse().unwrap())), "{good}");
        }
        assert_eq!("unix:/run/m.sock".parse(), Ok(ListenAddress::Unix("/run/m.sock".into())));
        for remote in ["0.0.0.0:9753", "[::]:9753", "10.0.0.1:9753", "[::ffff:127.0.0.1]:9753"] {
            let error = remote.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains("not a loopback address") && error.contains("proxy"), "{remote}: {error}");
            let twice = format!("remote:{remote}");
            assert!(error.contains(&twice), "{error}");
            assert_eq!(twice.parse(), Ok(ListenAddress::Tcp(remote.parse().unwrap())), "{twice}");
        }
        let longest = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH - 1));
        assert!(longest.parse::<ListenAddress>().is_ok());
        let error = (longest + "x").parse::<ListenAddress>().unwrap_err();
        assert!(error.contains("108 bytes") && error.contains("shorter"), "{error}");
        for bad in [
            "",
            "9753",
            ":9753",
            "localhost:9753",
            "127.0.0.1",
            "unix:",
            "unix:m.sock",
            "127.0.0.1:99999",
            "remote:",
            "remote::9753",
            "remote:unix:/m",
        ] {
            assert!(bad.parse::<ListenAddress>().unwrap_err().starts_with("write "), "{bad}");
        }
    }

    #[test]
    fn an_address_in_use_is_an_error_with_a_hint() {
        let first = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()).bind().unwrap();
        let address = first.local_address().unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(first.to_string(), format!("http://{address}/metrics"));
        let error = ListenAddress::Tcp(address).bind().unwrap_err().to_string();
        assert!(error.contains("another program has the address\nhint: "), "{error}");
        assert!(error.ends_with(&format!("\n    ss -ltnp 'sport = :{}'", address.port())), "{error}");
    }

    #[test]
    fn a_burst_of_connections_waits_in_the_kernel() {
        let somaxconn: usize = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        let listener = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()).bind().unwrap();
        let address = listener.local_address().unwrap();
        // Nothing accepts them: without room, a connection takes a second or more.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(800)).unwrap();
        let waiting: Vec<_> = (0..somaxconn.min(500)).map(connect).collect();
        assert!(!waiting.is_empty());
    }
}
