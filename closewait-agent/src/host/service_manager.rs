//! Notifications to the service manager (sd_notify(3)).

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use sd_notify::NotifyState;

use super::datagram;

/// Environment variables of the service manager. They are for this process only, so its programs must not inherit them.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Connection to the service manager.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Connects to the service manager that started this process. Returns `None` without one. A confined process can still
    /// send: the connection needs no right to the path of the socket, and no path at all.
    ///
    /// # Errors
    ///
    /// If the address of its socket is invalid, or the kernel refuses.
    pub fn connect() -> io::Result<Option<Self>> {
        let address = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        address.map(|address| Self::connect_to(&address, sd_notify::watchdog_enabled())).transpose()
    }

    /// Connects to a socket: an absolute path, or a name in the abstract namespace after `@`.
    ///
    /// # Errors
    ///
    /// As for [`ServiceManager::connect`].
    pub fn connect_to(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            // A virtual machine's manager may have an address of AF_VSOCK.
            _ => return Err(io::Error::other("NOTIFY_SOCKET is neither an absolute path nor a name after @")),
        };
        let socket = datagram::connect(&address)?;
        Ok(Self { socket, watchdog: watchdog.filter(|watchdog| !watchdog.is_zero()) })
    }

    /// Returns the time without a sign of life after which the manager ends this process; `None` if it does not.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// If the queue of the manager is full (`WouldBlock`), or the manager has closed its socket.
    pub fn send(&self, message: &str) -> io::Result<()> {
        self.socket.send(message.as_bytes()).map(drop)
    }
}

/// Returns the message for these states.
pub fn message(states: &[NotifyState<'_>]) -> String {
    states.iter().fold(String::new(), |mut message, state| {
        let _never = writeln!(message, "{state}");
        message
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receives a message.
    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_message_arrives_at_a_path_and_at_an_abstract_name() {
        let name = format!("closewait-notify-{}", std::process::id());
        let path = env::temp_dir().join(&name);
        let _absent = std::fs::remove_file(&path);
        let text = message(&[NotifyState::Ready, NotifyState::Status("1 group")]);
        let addresses = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
                format!("@{name}").into(),
            ),
        ];
        for (socket, address) in addresses {
            let manager = ServiceManager::connect_to(&address, Some(Duration::ZERO)).unwrap();
            // The connection outlives the path.
            let _abstract = std::fs::remove_file(&path);
            manager.send(&text).unwrap();
            assert_eq!(received(&socket), "READY=1\nSTATUS=1 group\n");
            assert_eq!(manager.watchdog(), None);
        }
    }

    #[test]
    fn a_manager_that_does_not_receive_is_not_waited_for() {
        let name = format!("closewait-notify-full-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let manager = ServiceManager::connect_to(format!("@{name}").as_ref(), None).unwrap();
        let full = (0..100_000).find_map(|_| manager.send("WATCHDOG=1\n").err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(socket);
        assert_eq!(manager.send("WATCHDOG=1\n").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn another_kind_of_address_is_an_error() {
        for address in ["vsock:2:1234", "notify", "/nowhere/notify"] {
            assert!(ServiceManager::connect_to(address.as_ref(), None).is_err(), "{address}");
        }
    }
}
