//! Query of one socket by its endpoints and cookie, and its destruction: `SOCK_DESTROY`, as `ss -K` does it.

use std::{io, net::IpAddr};

use closewait_common::tcp::{AF_INET, AF_INET6, IPPROTO_TCP};
use thiserror::Error;

use super::{
    DiagError, Netlink,
    wire::{DiagSocket, Info, nl},
};
use closewait_engine::{
    kill::{CurrentSocket, Target},
    model::Endpoint,
};

/// Reason why a socket was not destroyed.
#[derive(Debug, Error)]
pub enum DestroyError {
    /// No socket has these endpoints and this cookie.
    #[error("there is no such socket any more\nhint: list again")]
    Gone,
    /// The caller lacks `CAP_NET_ADMIN` in the user namespace that owns the network namespace (`sock_diag_destroy`,
    /// net/core/sock_diag.c at v5.10).
    #[error(
        "SOCK_DESTROY was refused: CAP_NET_ADMIN is missing in the user namespace that owns the socket's network namespace\n\
         hint: run as root there, or grant cap_net_admin too"
    )]
    Denied(#[source] io::Error),
    /// The kernel is built without support.
    #[error("SOCK_DESTROY is not supported\nhint: use a kernel with CONFIG_INET_DIAG_DESTROY=y")]
    Unsupported(#[source] io::Error),
    /// The query failed for another reason.
    #[error(transparent)]
    Other(DiagError),
}

/// Socket id that matches no socket: no endpoints, and cookie 0, while the kernel counts cookies from 1.
const NO_SOCKET: [u8; 48] = [0; 48];
/// Offset of `idiag_ext` in a request.
const EXTENSIONS: usize = 18;
/// Any cookie: `INET_DIAG_NOCOOKIE` twice.
const ANY_COOKIE: u64 = u64::MAX;

/// Returns the socket in the network namespace of this thread with the endpoints and the cookie of `target`. `None`
/// if there is none.
///
/// # Errors
///
/// If the question cannot be asked or is not answered.
pub fn get(target: &Target) -> Result<Option<CurrentSocket>, DiagError> {
    read_current(target, target.cookie)
}

/// Returns the socket with the endpoints of `target`, with any cookie.
///
/// # Errors
///
/// If the question cannot be asked or is not answered.
pub fn get_any(target: &Target) -> Result<Option<CurrentSocket>, DiagError> {
    // Without a connection between these endpoints, the kernel returns the listener there (`__inet_lookup`,
    // include/net/inet_hashtables.h at v5.10).
    let same_ends = |facts: &CurrentSocket| (facts.local, facts.remote) == (target.local, target.remote);
    Ok(read_current(target, ANY_COOKIE)?.filter(same_ends))
}

/// Destroys the socket in the network namespace of this thread with the endpoints and the cookie of `target`. The
/// kernel compares them again while it holds the socket, so it destroys no other.
///
/// # Errors
///
/// If there is no such socket, or the kernel refuses.
pub fn destroy(target: &Target) -> Result<(), DestroyError> {
    let ask = |netlink: Netlink| {
        netlink.exchange(&request(nl::SOCK_DESTROY, family(target.local), id(target, target.cookie)))
    };
    match Netlink::open().and_then(ask) {
        Ok(_acknowledged) => Ok(()),
        Err(error) => Err(destroy_error(error)),
    }
}

/// Checks that this kernel can destroy TCP sockets, by a request for a socket that cannot exist.
///
/// # Errors
///
/// If the kernel lacks support, or refuses the request.
pub fn probe_destroy() -> Result<(), DestroyError> {
    let ask = |netlink: Netlink| netlink.exchange(&request(nl::SOCK_DESTROY, AF_INET, NO_SOCKET));
    match Netlink::open().and_then(ask).map_err(destroy_error) {
        Ok(_) | Err(DestroyError::Gone) => Ok(()),
        Err(error) => Err(error),
    }
}

fn read_current(target: &Target, cookie: u64) -> Result<Option<CurrentSocket>, DiagError> {
    let request = request(nl::SOCK_DIAG_BY_FAMILY, family(target.local), id(target, cookie));
    match Netlink::open().and_then(|netlink| netlink.exchange(&request)) {
        Ok(found) => Ok(found.first().map(DiagSocket::facts)),
        Err(DiagError::Refused(error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the `struct tcp_info` of a listed socket that no program has accepted. The read takes the socket's lock,
/// which a program that has accepted the socket can hold forever. `None` if the socket is gone.
pub(super) fn info(netlink: &Netlink, found: &DiagSocket) -> Result<Option<Box<Info>>, DiagError> {
    let id = id_of((found.local, found.remote), found.interface, found.cookie);
    ask(netlink, family(found.local), id, Requested::Info).map(|same| same.and_then(|same| same.info))
}

/// Facts to query beyond a socket's state, endpoints, queues, timer and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requested {
    /// The `struct tcp_info`, for which the kernel takes the socket's lock.
    Info,
    /// Nothing.
    Nothing,
}

/// Returns the connection between these endpoints, local first, in the network namespace of `netlink`. `None` if
/// there is none.
pub(super) fn find(
    netlink: &Netlink,
    ends: (Endpoint, Endpoint),
    requested: Requested,
) -> Result<Option<DiagSocket>, DiagError> {
    let found = ask(netlink, family(ends.0), id_of(ends, 0, ANY_COOKIE), requested)?;
    // Without such a connection, the kernel returns the listener there.
    Ok(found.filter(|found| (found.local, found.remote) == ends))
}

fn ask(netlink: &Netlink, family: u16, id: [u8; 48], requested: Requested) -> Result<Option<DiagSocket>, DiagError> {
    let mut request = request(nl::SOCK_DIAG_BY_FAMILY, family, id);
    if requested == Requested::Nothing {
        request[EXTENSIONS] = 0;
    }
    match netlink.exchange(&request) {
        Ok(found) => Ok(found.into_iter().next()),
        Err(DiagError::Refused(error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn destroy_error(error: DiagError) -> DestroyError {
    match error {
        DiagError::Refused(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => DestroyError::Gone,
            Some(libc::EPERM | libc::EACCES) => DestroyError::Denied(error),
            Some(libc::EOPNOTSUPP) => DestroyError::Unsupported(error),
            _ => DestroyError::Other(DiagError::Refused(error)),
        },
        other @ (DiagError::Call { .. } | DiagError::CutOff) => DestroyError::Other(other),
    }
}

/// Returns the address family of a query. It also finds IPv6 sockets with mapped addresses by their IPv4 addresses,
/// as packets do.
fn family(local: Endpoint) -> u16 {
    if local.address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// Builds a `struct inet_diag_sockid`.
fn id(target: &Target, cookie: u64) -> [u8; 48] {
    id_of((target.local, target.remote), target.interface, cookie)
}

fn id_of((local, remote): (Endpoint, Endpoint), interface: u32, cookie: u64) -> [u8; 48] {
    let mut id = NO_SOCKET;
    let address = |address: IpAddr| {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes.copy_from_slice(&address.octets()),
        }
        bytes
    };
    id[..2].copy_from_slice(&local.port.to_be_bytes());
    id[2..4].copy_from_slice(&remote.port.to_be_bytes());
    id[4..20].copy_from_slice(&address(local.address));
    id[20..36].copy_from_slice(&address(remote.address));
    id[36..40].copy_from_slice(&interface.to_ne_bytes());
    // The lower half comes first on every architecture.
    let (low, high) = (cookie as u32, (cookie >> 32) as u32);
    id[40..44].copy_from_slice(&low.to_ne_bytes());
    id[44..].copy_from_slice(&high.to_ne_bytes());
    id
}

/// Builds a `struct nlmsghdr` and a `struct inet_diag_req_v2` for one socket. Unlike in a dump, the states do not
/// matter.
fn request(kind: u16, family: u16, id: [u8; 48]) -> [u8; 72] {
    let mut request = [0; 72];
    request[..4].copy_from_slice(&72_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&nl::ONE.to_ne_bytes());
    // Both fit into a byte: they are 2 or 10, and 6.
    request[16] = family as u8;
    request[17] = IPPROTO_TCP as u8;
    request[EXTENSIONS] = 1 << (nl::ATTR_INFO - 1);
    request[24..].copy_from_slice(&id);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(local: &str, remote: &str) -> Target {
        let end = |text: &str| {
            let address: std::net::SocketAddr = text.parse().unwrap();
            Endpoint { address: address.ip(), port: address.port() }
        };
        let (local, remote) = (end(local), end(remote));
        Target {
            netns: 1,
            local,
            remote,
            cookie: 5 | 6 << 32,
            inode: 7,
            interface: 3,
            entered: None,
            peer_reads: false,
        }
    }

    #[test]
    fn a_request_has_the_ends_in_network_order_and_the_cookie_in_halves() {
        let target = target("10.0.0.5:8080", "10.0.0.9:51234");
        let request = request(nl::SOCK_DESTROY, family(target.local), id(&target, target.cookie));
        assert_eq!(request[..4], 72_u32.to_ne_bytes());
        assert_eq!(request[4..6], 21_u16.to_ne_bytes(), "SOCK_DESTROY");
        assert_eq!(request[6..8], 5_u16.to_ne_bytes(), "a request that is acknowledged, and no dump");
        assert_eq!(request[16..18], [2, 6]);
        assert_eq!(request[24..28], [0x1f, 0x90, 0xc8, 0x22]);
        assert_eq!((&request[28..32], &request[32..44]), (&[10, 0, 0, 5][..], &[0; 12][..]));
        assert_eq!((&request[44..48], &request[48..60]), (&[10, 0, 0, 9][..], &[0; 12][..]));
        assert_eq!(request[60..64], 3_u32.to_ne_bytes());
        assert_eq!((&request[64..68], &request[68..]), (&5_u32.to_ne_bytes()[..], &6_u32.to_ne_bytes()[..]));
    }

    #[test]
    fn an_ipv6_address_takes_all_its_room() {
        let target = target("[2001:db8::1]:80", "[2001:db8::2]:81");
        let id = id(&target, ANY_COOKIE);
        assert_eq!(family(target.local), 10);
        assert_eq!((id[4..8].to_vec(), id[19], id[35]), (vec![0x20, 0x01, 0x0d, 0xb8], 1, 2));
        assert_eq!(id[40..], [0xff; 8], "INET_DIAG_NOCOOKIE twice");
    }

    #[test]
    fn each_refusal_says_what_helps() {
        let of = |errno| destroy_error(DiagError::Refused(io::Error::from_raw_os_error(errno)));
        assert!(matches!(of(libc::ENOENT), DestroyError::Gone));
        assert!(matches!(of(libc::EINVAL), DestroyError::Other(_)));
        let denied = of(libc::EPERM);
        assert!(matches!(denied, DestroyError::Denied(_)) && denied.to_string().contains("CAP_NET_ADMIN"));
        let unsupported = of(libc::EOPNOTSUPP);
        assert!(matches!(unsupported, DestroyError::Unsupported(_)));
        assert!(unsupported.to_string().contains("CONFIG_INET_DIAG_DESTROY"));
        assert!(std::error::Error::source(&unsupported).is_some(), "the cause is kept");
    }

    #[test]
    fn one_that_cannot_be_is_not_found() {
        let target = target("127.0.0.1:1", "127.0.0.1:2");
        assert_eq!(get(&target).unwrap(), None);
        assert_eq!(get_any(&target).unwrap(), None);
    }
}
