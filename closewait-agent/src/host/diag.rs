//! Whether the kernel answers questions about TCP sockets over netlink, as `ss` asks them.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// A system call failed.
    #[error("{call} on a NETLINK_SOCK_DIAG socket failed: {source}; the kernel may be built without CONFIG_INET_DIAG")]
    Call {
        /// The call.
        call: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel answered with an error.
    #[error("the kernel refused to list TCP sockets: {source}; try `modprobe tcp_diag`")]
    Refused {
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer is none that is known.
    #[error("the answer to a sock_diag request is not understood; please report it with the kernel's version")]
    Answer,
}

/// Asks for the IPv4 sockets in CLOSE_WAIT of this network namespace. Loads the module `tcp_diag` if need be, as `ss`
/// does. Needs no privilege.
///
/// # Errors
///
/// If the question cannot be asked or is not answered.
pub fn probe() -> Result<(), DiagError> {
    let failed = |call| DiagError::Call { call, source: io::Error::last_os_error() };
    // SAFETY: `socket` takes three integers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(failed("socket"));
    }
    // SAFETY: the descriptor was opened above and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let request = request();
    // SAFETY: the pointer and the length are those of one live array. Without an address, it goes to the kernel.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(failed("send"));
    }
    let mut answer = [0_u8; 8192];
    // The kernel has put the first part of its answer into the queue before `send` returned.
    // SAFETY: the pointer and the length are those of one live array.
    let received =
        unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), libc::MSG_DONTWAIT) };
    let received = usize::try_from(received).map_err(|_negative| failed("recv"))?;
    understand(answer.get(..received).unwrap_or_default())
}

/// `SOCK_DIAG_BY_FAMILY` in `include/uapi/linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// TCP_CLOSE_WAIT in `include/net/tcp_states.h`.
const CLOSE_WAIT: u32 = 8;

/// A `struct nlmsghdr` and a `struct inet_diag_req_v2` (`include/uapi/linux/inet_diag.h`).
fn request() -> [u8; 72] {
    const LEN: u32 = 72;
    /// `NLM_F_REQUEST | NLM_F_DUMP`.
    const FLAGS: u16 = 0x301;
    let mut request = [0; LEN as usize];
    request[..4].copy_from_slice(&LEN.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    // AF_INET and IPPROTO_TCP.
    request[16..18].copy_from_slice(&[2, 6]);
    request[20..24].copy_from_slice(&(1_u32 << CLOSE_WAIT).to_ne_bytes());
    request
}

/// Tells sockets, or the regular end of none, from an error.
fn understand(answer: &[u8]) -> Result<(), DiagError> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    // After the header, both an error and the end carry a number: 0, or an errno with the sign turned.
    let number = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, number) {
        (Some(SOCK_DIAG_BY_FAMILY), _) | (Some(DONE), Some(0)) => Ok(()),
        (Some(ERROR | DONE), Some(number @ ..0)) => {
            Err(DiagError::Refused { source: io::Error::from_raw_os_error(number.saturating_neg()) })
        }
        _ => Err(DiagError::Answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, number: i32) -> Vec<u8> {
        let mut bytes = vec![20, 0, 0, 0];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(number.to_ne_bytes());
        bytes
    }

    #[test]
    fn sockets_and_an_empty_list_are_answers() {
        assert!(understand(&answer(20, 0)).is_ok());
        assert!(understand(&answer(3, 0)).is_ok());
    }

    #[test]
    fn errors_keep_what_the_kernel_said() {
        for kind in [2, 3] {
            let error = understand(&answer(kind, -libc::ENOENT)).unwrap_err();
            assert!(error.to_string().contains("No such file"), "{error}");
        }
    }

    #[test]
    fn nonsense_is_not_understood() {
        for bytes in [vec![], answer(7, 0), answer(2, 0), vec![0; 5]] {
            assert!(matches!(understand(&bytes), Err(DiagError::Answer)));
        }
    }
}
