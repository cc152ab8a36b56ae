//! Forms of the system call `bpf` that aya does not offer.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Fields of `union bpf_attr` that `BPF_PROG_TEST_RUN` reads (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
}

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_TRACE_ITER` of `enum bpf_attach_type`.
const BPF_TRACE_ITER: u32 = 28;

/// Fields of `union bpf_attr` that `BPF_LINK_CREATE` reads for an iterator (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    _pad: u32,
}

/// Fields of `union bpf_attr` that `BPF_ITER_CREATE` reads (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// The member `task` of `union bpf_iter_link_info` (include/uapi/linux/bpf.h at v6.1), padded to the size of the
/// union.
#[repr(C)]
struct TaskInfo {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    _pad: u32,
}

/// Returns a file with the open files of all processes, or of one process, from a loaded iterator over `task_file`.
/// `pid` is the number of the process in the pid namespace of the caller.
///
/// # Errors
///
/// If the kernel refuses. For one process, it refuses with `EINVAL` before Linux 6.1 (`bpf_iter_attach_task`,
/// kernel/bpf/task_iter.c).
pub(super) fn open_files(program: BorrowedFd<'_>, pid: Option<u32>) -> io::Result<File> {
    let info = TaskInfo { tid: 0, pid: pid.unwrap_or(0), pid_fd: 0, _pad: 0 };
    // Older kernels accept no iterator parameters at all.
    let (iter_info, iter_info_len) = match pid {
        Some(_) => ((&raw const info) as u64, size_of::<TaskInfo>() as u32),
        None => (0, 0),
    };
    let link = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: 0,
        attach_type: BPF_TRACE_ITER,
        flags: 0,
        iter_info,
        iter_info_len,
        _pad: 0,
    };
    let link = new_fd(BPF_LINK_CREATE, &link)?;
    let create = IterCreate { link_fd: link.as_raw_fd().cast_unsigned(), flags: 0 };
    Ok(File::from(new_fd(BPF_ITER_CREATE, &create)?))
}

/// Fields of `union bpf_attr` that `BPF_OBJ_GET` reads (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens the object that is pinned at a path. aya's own call also asks for the types of the program, which takes
/// `CAP_SYS_ADMIN` (`bpf_btf_get_fd_by_id`, kernel/bpf/syscall.c at v5.10).
///
/// # Errors
///
/// If nothing is pinned there, or this process may not open it.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    new_fd(BPF_OBJ_GET, &ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })
}

/// The member `info` of `union bpf_attr` (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// BPF object, with the facts that tell it from others of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BpfObject {
    /// A map.
    Map {
        /// Name, cut to the length that the kernel stores.
        name: Vec<u8>,
    },
    /// A program.
    Program {
        /// Name, cut to the length that the kernel stores.
        name: Vec<u8>,
        /// ID of the object.
        id: u32,
    },
    /// A link, which keeps a program attached.
    Link {
        /// ID of the attached program.
        program: u32,
    },
}

/// Returns the type and the identity of a BPF object.
///
/// # Errors
///
/// If the descriptor is no BPF object, the kernel refuses, or there is no `/proc`.
pub(super) fn describe(object: BorrowedFd<'_>) -> io::Result<BpfObject> {
    // The names of the inodes are in kernel/bpf/syscall.c (v5.10). The kernel shows the type nowhere else.
    let kind = fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    match kind.as_os_str().as_bytes() {
        b"anon_inode:bpf-map" => Ok(BpfObject::Map { name: text(&info::<40>(object)?[24..]) }),
        b"anon_inode:bpf-prog" => {
            let info = info::<80>(object)?;
            Ok(BpfObject::Program { name: text(&info[64..]), id: number(&info[4..]) })
        }
        b"anon_inode:bpf-link" | b"anon_inode:bpf_link" => {
            Ok(BpfObject::Link { program: number(&info::<12>(object)?[8..]) })
        }
        _ => Err(io::Error::other("neither a map, a program nor a link")),
    }
}

/// Returns the first `SIZE` bytes of the kernel's description of an object: of `struct bpf_map_info` or its like
/// (include/uapi/linux/bpf.h at v5.10).
fn info<const SIZE: usize>(object: BorrowedFd<'_>) -> io::Result<[u8; SIZE]> {
    // Zeros request no lists.
    let mut info = [0; SIZE];
    let mut attributes =
        InfoByFd { bpf_fd: object.as_raw_fd().cast_unsigned(), info_len: SIZE as u32, info: info.as_mut_ptr() as u64 };
    // SAFETY: the attributes are those of the command, of the size given, and `info` has room for `SIZE` bytes, which the
    // kernel reads and writes no more of, and outlives the call.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attributes, size_of::<InfoByFd>() as libc::c_long)
    };
    if failed == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().take_while(|byte| *byte != 0).collect()
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// The member `batch` of `union bpf_attr` (include/uapi/linux/bpf.h at v5.10).
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Returns all entries of a hash map with keys and values of 8 bytes. The kernel reads each bucket atomically
/// (`__htab_map_lookup_and_delete_batch`, kernel/bpf/hashtab.c at v5.10), so an entry that stays in the map is found.
/// Iterating key by key would start again whenever the last key was removed.
///
/// The map is read in batches: one call scans empty buckets without rescheduling, which takes some milliseconds with
/// the largest map that `--max-sockets` allows.
///
/// # Errors
///
/// If the kernel refuses.
pub(super) fn entries(map: BorrowedFd<'_>) -> io::Result<Vec<(u64, u64)>> {
    /// Entries per call; more than any bucket has.
    const AT_ONCE: usize = 4096;
    let (mut keys, mut values) = (vec![0_u64; AT_ONCE], vec![0_u64; AT_ONCE]);
    let (mut bucket, mut next) = (0_u32, 0_u32);
    let mut first = true;
    let mut all = Vec::new();
    loop {
        let mut batch = Batch {
            in_batch: if first { 0 } else { (&raw const bucket) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes are those of the command, of the size given. What they point to outlives the call: a
        // `u32` each for the bucket, and room for `count` keys and values of 8 bytes, which is what the map has.
        let failed = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>() as libc::c_long)
        };
        let ended = match (failed, io::Error::last_os_error()) {
            (0, _) => false,
            // That was the last bucket.
            (_, error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            (_, error) => return Err(error),
        };
        all.extend(keys.iter().copied().zip(values.iter().copied()).take(batch.count as usize));
        if ended {
            return Ok(all);
        }
        (bucket, first) = (next, false);
    }
}

/// Calls a `bpf` command that returns a descriptor.
fn new_fd<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let attributes: *const T = attributes;
    // SAFETY: the attributes are those of the command, of the size given, and what they point to outlives the call, which
    // only reads it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>() as libc::c_long) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else in this process uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs the program of a raw tracepoint once, synchronously, with `arguments` as the tracepoint's first arguments. Returns its
/// result (`bpf_prog_test_run_raw_tp`, net/bpf/test_run.c at v5.10).
///
/// # Errors
///
/// If the kernel refuses.
pub(super) fn raw_tracepoint(program: BorrowedFd<'_>, arguments: [u64; 2]) -> io::Result<u32> {
    let context = arguments;
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the attributes are those of the command, of the size given, which the call reads, and it writes the result. What they
    // point to outlives the call, which only reads it.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>() as libc::c_long)
    };
    if failed == 0 { Ok(attributes.retval) } else { Err(io::Error::last_os_error()) }
}
