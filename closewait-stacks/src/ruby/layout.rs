//! Offsets of the structs of MRI.

/// Offsets of the structs of a version of MRI, for 64 bits: vm_core.h, ractor_core.h, iseq.h, `include/ruby/internal/core` at `v2_7_4`,
/// `v3_1_2` and `v3_3_8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RubyLayout {
    /// `main_thread` of `rb_vm_t`.
    pub(super) main_thread: u64,
    /// `mark_object_ary` of `rb_vm_t`: objects that the virtual machine keeps.
    pub(super) kept: u64,
    /// Place of the list of threads.
    pub(super) threads: ThreadsPlace,
    /// `vm` of `rb_thread_t`.
    pub(super) vm: usize,
    /// `ec` of `rb_thread_t`.
    pub(super) context: usize,
    /// `thread_id` of `rb_thread_t`, or `nt`.
    pub(super) thread_id: usize,
    /// `thread_id` of `rb_native_thread`, from `nt`.
    pub(super) native_id: Option<u64>,
    /// `thread_ptr` of `rb_execution_context_t`.
    pub(super) thread: usize,
    /// Size of `rb_control_frame_t`.
    pub(super) frame: usize,
    /// `insns_info` of `rb_iseq_constant_body`.
    pub(super) lines: usize,
    /// Size of `iseq_insn_info_entry`.
    pub(super) line: u64,
    /// Whether `len` of `RString` is also in the header of short texts.
    pub(super) has_len: bool,
    /// Bits of the length of a short array, from bit 15 of its flags (`RARRAY_EMBED_LEN_MASK`).
    pub(super) array_len: u64,
    /// Last number of an operator's name (`tLAST_OP_ID`, id.h).
    pub(super) last_operator: u64,
}

/// Place of the list of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadsPlace {
    /// `living_threads` of `rb_vm_t`.
    Vm(u64),
    /// `threads.set` of each `rb_ractor_t`.
    Ractors {
        /// `ractor.set` of `rb_vm_t`.
        ractors: u64,
        /// `vmlr_node` of `rb_ractor_t`.
        node: u64,
        /// `threads.set` of `rb_ractor_t`.
        threads: u64,
    },
}

impl RubyLayout {
    /// Returns the offsets of a version such as `3.1.2`; `None` if they were not compared with a running program.
    pub(super) fn of_version(version: &str) -> Option<Self> {
        let of_3_1 = Self {
            main_thread: 40,
            kept: 328,
            threads: ThreadsPlace::Ractors { ractors: 8, node: 568, threads: 304 },
            vm: 32,
            context: 40,
            thread_id: 80,
            native_id: None,
            thread: 48,
            frame: 64,
            lines: 120,
            line: 12,
            has_len: false,
            array_len: 3,
            last_operator: 169,
        };
        let (minor, _) = version.rsplit_once('.')?;
        Some(match minor {
            "2.7" => Self {
                main_thread: 192,
                kept: 352,
                threads: ThreadsPlace::Vm(312),
                vm: 24,
                context: 32,
                thread_id: 72,
                thread: 56,
                frame: 56,
                line: 8,
                last_operator: 168,
                ..of_3_1
            },
            "3.1" => of_3_1,
            "3.3" => Self {
                kept: 512,
                threads: ThreadsPlace::Ractors { ractors: 8, node: 432, threads: 256 },
                context: 48,
                thread_id: 40,
                native_id: Some(16),
                frame: 56,
                lines: 112,
                has_len: true,
                array_len: 0x7f,
                ..of_3_1
            },
            _ => return None,
        })
    }
}
