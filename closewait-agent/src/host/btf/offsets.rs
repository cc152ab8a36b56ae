//! Offsets of the members that the kernel program reads, in this kernel.

use closewait_common::config::{Abilities, Layout, MISSING};

use super::Btf;

/// Returns the offset of every member that the kernel program reads; [`MISSING`] where this kernel has no such
/// member.
pub fn layout(btf: &Btf) -> Layout {
    let at = |type_name, path| btf.offset(type_name, path).unwrap_or(MISSING);
    let sock = |path| at("sock", path);
    let tcp = |path| at("tcp_sock", path);
    let registers = registers(btf);
    Layout {
        sock_family: sock("__sk_common.skc_family"),
        sock_state: sock("__sk_common.skc_state"),
        inet_sport: at("inet_sock", "inet_sport"),
        sock_dport: sock("__sk_common.skc_dport"),
        sock_rcv_saddr: sock("__sk_common.skc_rcv_saddr"),
        sock_daddr: sock("__sk_common.skc_daddr"),
        sock_v6_rcv_saddr: sock("__sk_common.skc_v6_rcv_saddr"),
        sock_v6_daddr: sock("__sk_common.skc_v6_daddr"),
        sock_cookie: sock("__sk_common.skc_cookie"),
        sock_net: sock("__sk_common.skc_net.net"),
        sock_flags: sock("__sk_common.skc_flags"),
        sock_err: sock("sk_err"),
        sock_shutdown: sock("sk_shutdown"),
        sock_socket: sock("sk_socket"),
        sock_protocol: sock("sk_protocol"),
        sock_cgroup: sock("sk_cgrp_data.cgroup"),
        sock_max_ack_backlog: sock("sk_max_ack_backlog"),
        net_inum: at("net", "ns.inum"),
        cgroup_kn: at("cgroup", "kn"),
        kernfs_id: at("kernfs_node", "id"),
        socket_sk: at("socket", "sk"),
        socket_file: at("socket", "file"),
        socket_ino: socket_ino(btf).unwrap_or(MISSING),
        file_count: at("file", "f_count"),
        file_ref: at("file", "f_ref.refcnt"),
        file_inode: at("file", "f_inode"),
        file_private_data: at("file", "private_data"),
        inode_mode: at("inode", "i_mode"),
        tcp_rcv_nxt: tcp("rcv_nxt"),
        tcp_copied_seq: tcp("copied_seq"),
        tcp_bytes_received: tcp("bytes_received"),
        tcp_bytes_sent: tcp("bytes_sent"),
        tcp_rcv_tstamp: tcp("rcv_tstamp"),
        tcp_lrcvtime: tcp("inet_conn.icsk_ack.lrcvtime"),
        sock_ack_backlog: sock("sk_ack_backlog"),
        sock_timer_expires: first(&[tcp("inet_conn.icsk_keepalive_timer.expires"), sock("sk_timer.expires")]),
        sock_timer_pprev: first(&[tcp("inet_conn.icsk_keepalive_timer.entry.pprev"), sock("sk_timer.entry.pprev")]),
        tcp_write_seq: tcp("write_seq"),
        tcp_snd_una: tcp("snd_una"),
        tcp_bytes_acked: tcp("bytes_acked"),
        tcp_lsndtime: tcp("lsndtime"),
        tcp_pending: tcp("inet_conn.icsk_pending"),
        tcp_timeout: first(&[
            tcp("inet_conn.icsk_timeout"),
            sock("tcp_retransmit_timer.expires"),
            tcp("inet_conn.icsk_retransmit_timer.expires"),
        ]),
        tcp_retransmits: tcp("inet_conn.icsk_retransmits"),
        tcp_probes_out: tcp("inet_conn.icsk_probes_out"),
        task_tgid: at("task_struct", "tgid"),
        task_comm: at("task_struct", "comm"),
        task_flags: at("task_struct", "flags"),
        regs_pc: registers[0],
        regs_sp: registers[1],
        regs_fp: registers[2],
        regs_lr: registers[3],
    }
}

/// Returns the offsets of program counter, stack pointer, frame pointer and link register in `struct pt_regs`
/// (arch/x86/include/asm/ptrace.h, arch/arm64/include/asm/ptrace.h; v6.18).
fn registers(btf: &Btf) -> [u32; 4] {
    let at = |path| btf.offset("pt_regs", path).unwrap_or(MISSING);
    if cfg!(target_arch = "x86_64") {
        [at("ip"), at("sp"), at("bp"), MISSING]
    } else if cfg!(target_arch = "aarch64") {
        // `x29` and `x30` of the array.
        let [fp, lr] = [29, 30].map(|number| btf.offset("pt_regs", "regs").map_or(MISSING, |regs| regs + 8 * number));
        [at("pc"), at("sp"), fp, lr]
    } else {
        [MISSING; 4]
    }
}

/// Returns the helpers that the kernel program may call, and the numbers of the bits that it tests.
pub fn abilities(btf: &Btf) -> Abilities {
    Abilities {
        // The variant that takes a `struct sock` pointer came with the permission to call it from tracing programs
        // (`bpf_get_socket_ptr_cookie` in net/core/filter.c, `bpf_tracing_func_proto`; v5.12).
        socket_cookie: u32::from(btf.has_function("bpf_get_socket_ptr_cookie")),
        keepopen_bit: btf.enum_value("sock_flags", "SOCK_KEEPOPEN").unwrap_or(MISSING),
        done_bit: btf.enum_value("sock_flags", "SOCK_DONE").unwrap_or(MISSING),
        socket_of_file: u32::from(btf.has_function("bpf_sock_from_file")),
        openers: 0,
        tick_ns: 0,
        // Tracing programs may call it from the version on that has it (kernel/bpf/bpf_trace.c, `bpf_tracing_func_proto`; v5.15).
        connects: u32::from(btf.has_function("bpf_task_pt_regs")),
        slot_mask: 0,
        defers: 0,
        part_mask: 0,
        healthy_below_ns: 0,
    }
}

/// Returns the first offset that exists in this kernel.
fn first(offsets: &[u32]) -> u32 {
    offsets.iter().copied().find(|offset| *offset != MISSING).unwrap_or(MISSING)
}

/// Returns the distance from a `struct socket` to `i_ino` of its inode (`SOCK_INODE` in include/net/sock.h, v6.18).
fn socket_ino(btf: &Btf) -> Option<u32> {
    let inode = btf.offset("socket_alloc", "vfs_inode")?.checked_add(btf.offset("inode", "i_ino")?)?;
    inode.checked_sub(btf.offset("socket_alloc", "socket")?)
}
