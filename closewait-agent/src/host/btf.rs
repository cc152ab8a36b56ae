//! Reader of the kernel's type information (BTF), for the offsets of struct members.
//!
//! aya gives no access to members, and other readers build the whole type graph. This one leaves the bytes of the
//! file as they are, and adds one word for each type and an index of the names. Format: `Documentation/bpf/btf.rst`
//! and `include/uapi/linux/btf.h` (v6.18).

mod bytes;
mod names;
mod offsets;

#[cfg(test)]
mod blob;

use std::{
    io,
    path::{Path, PathBuf},
};

use self::{bytes::FileBytes, names::NameIndex};
pub use offsets::{abilities, layout};

/// File with all types that are built into the kernel (Linux 5.4, `kernel/bpf/sysfs_btf.c`).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Action for the user of a kernel without types, or without one that closewait needs.
pub const KERNEL_WITH_BTF: &str = "use a kernel with CONFIG_DEBUG_INFO_BTF=y";

/// Reason why the types cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("reading {} failed: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        error: io::Error,
    },
    /// The file system with the kernel's file is not mounted.
    #[error("sysfs is not mounted at /sys")]
    NoSysfs,
    /// The bytes are no BTF, or have another byte order than this machine.
    #[error("these bytes are not BTF of this machine (no magic number 0xeb9f); give the path of a BTF file")]
    Magic,
    /// A section or a type ends after the end of the bytes.
    #[error("the BTF ends in the middle of {what}; read the file again, as a whole")]
    Truncated {
        /// Name of the missing part.
        what: &'static str,
    },
    /// A type of a newer kind, whose size the file does not contain.
    #[error("type {id} of the BTF is of the unknown kind {kind}; a newer closewait may know it")]
    Kind {
        /// Number of the type.
        id: usize,
        /// Kind of the type, `BTF_KIND_*`.
        kind: u32,
    },
}

/// Types of one BTF file.
pub struct Btf {
    bytes: FileBytes,
    /// Start of the string section in `bytes`.
    strings: usize,
    /// End of the string section in `bytes`.
    strings_end: usize,
    /// Position of each type in `bytes`. Type 0 is `void` and has none; type 1 is the first.
    types: Vec<u32>,
    /// Numbers of the named structs, unions, enums, typedefs and functions, by the hashes of their names.
    names: NameIndex,
}

impl BtfError {
    /// Returns what to do so that the kernel's types can be read.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::NoSysfs => "mount it: mount -t sysfs -o ro sysfs /sys",
            Self::Read { error, .. } if error.kind() != io::ErrorKind::NotFound => {
                "make /sys/kernel/btf/vmlinux readable for closewait"
            }
            Self::Read { .. } | Self::Magic | Self::Truncated { .. } | Self::Kind { .. } => KERNEL_WITH_BTF,
        }
    }
}

impl Btf {
    /// Reads the types of the running kernel, from [`VMLINUX`].
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is malformed.
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new(VMLINUX)).map_err(|error| {
            let missing = matches!(&error, BtfError::Read { error, .. } if error.kind() == io::ErrorKind::NotFound);
            // sysfs always has this folder (`kernel_kobj`, kernel/ksysfs.c at v5.10).
            if missing && !Path::new("/sys/kernel").exists() { BtfError::NoSysfs } else { error }
        })
    }

    /// Reads a file of types.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is malformed.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let bytes = FileBytes::read(path).map_err(|error| BtfError::Read { path: path.to_owned(), error })?;
        Self::index(bytes)
    }

    /// Indexes the types in `bytes`. No bytes make this or any other method panic.
    ///
    /// # Errors
    ///
    /// If the bytes are not BTF, end too early, or contain a kind of type of unknown size.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        Self::index(FileBytes::Owned(bytes))
    }

    fn index(bytes: FileBytes) -> Result<Self, BtfError> {
        let header = Header::parse(&bytes)?;
        let mut btf = Self {
            strings: header.strings.0,
            strings_end: header.strings.1,
            types: Vec::with_capacity((header.types.1 - header.types.0) / MEAN_TYPE_BYTES),
            names: NameIndex::default(),
            bytes,
        };
        let (mut at, end) = header.types;
        while at < end {
            let id = btf.types.len() + 1;
            let shape = btf.shape(at).ok_or(BtfError::Truncated { what: "a type" })?;
            let size = shape
                .record_bytes()
                .or_else(|| header.foreign_bytes(&btf.bytes, shape))
                .ok_or(BtfError::Kind { id, kind: shape.kind })?;
            let next = at.checked_add(size).filter(|&next| next <= end);
            let next = next.ok_or(BtfError::Truncated { what: "a type" })?;
            btf.types.push(u32::try_from(at).unwrap_or(0));
            at = next;
        }
        btf.names = NameIndex::of(btf.types.len(), |id| btf.indexed_hash(id));
        Ok(btf)
    }

    /// Returns the offset of a member, in bytes from the start of the struct or union `type_name`.
    ///
    /// `path` names members with dots between them. Members of anonymous structs and unions count as members of the
    /// struct around them. The search follows typedefs and qualifiers, but not pointers, which lead to other memory.
    /// `None` if there is no such type or member, or if it is a bit field that does not fill whole bytes.
    pub fn offset(&self, type_name: &str, path: &str) -> Option<u32> {
        // A hostile file can make the search through anonymous structs endless.
        let mut budget = SEARCH_BUDGET;
        self.named(type_name).find_map(|id| {
            let mut owner = id;
            let mut bits = 0_u32;
            for name in path.split('.') {
                let member = self.member(owner, name.as_bytes(), 0, &mut budget)?;
                bits = bits.checked_add(member.bits)?;
                owner = member.type_id;
            }
            bits.is_multiple_of(8).then_some(bits / 8)
        })
    }

    /// Returns the number of a function that is not inlined everywhere.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.named(name).find(|&id| self.kind(id) == Some(FUNC))
    }

    /// Whether the kernel has a function of this name that is not inlined everywhere.
    pub fn has_function(&self, name: &str) -> bool {
        self.function(name).is_some()
    }

    /// Returns the number of a typedef.
    pub fn typedef(&self, name: &str) -> Option<u32> {
        self.named(name).find(|&id| self.kind(id) == Some(TYPEDEF))
    }

    /// Whether there is a struct, union, enum or typedef of this name.
    pub fn has_type(&self, name: &str) -> bool {
        self.named(name).any(|id| self.kind(id) != Some(FUNC))
    }

    /// Returns the value of a member of an enum; `None` also if it is negative, or above `i32::MAX` in an enum of 4
    /// bytes.
    pub fn enum_value(&self, enum_name: &str, member: &str) -> Option<u32> {
        self.named(enum_name).find_map(|id| {
            let (at, shape) = self.resolve(id)?;
            let record = match shape.kind {
                ENUM => 8,
                ENUM64 => 12,
                _ => return None,
            };
            (0..shape.len).map(|n| at + TYPE_BYTES + n * record).find_map(|at| {
                if self.string(self.word(at)?)? != member.as_bytes() {
                    return None;
                }
                let value = self.word(at + 4)?;
                // Only since 6.0 the file shows whether a value with the upper bit is negative: leave those out.
                let fits = match shape.kind {
                    ENUM64 => self.word(at + 8)? == 0,
                    _ => value <= i32::MAX.unsigned_abs(),
                };
                fits.then_some(value)
            })
        })
    }

    /// Returns the size of a struct, union or enum in bytes, also behind a typedef.
    pub fn size_of(&self, type_name: &str) -> Option<u32> {
        self.named(type_name).find_map(|id| {
            let (_, shape) = self.resolve(id)?;
            matches!(shape.kind, STRUCT | UNION | ENUM | ENUM64).then_some(shape.size_or_type)
        })
    }

    /// Finds a member by name, in `owner` or in the anonymous structs and unions within it.
    fn member(&self, owner: u32, name: &[u8], depth: u32, budget: &mut u32) -> Option<Member> {
        let (at, shape) = self.resolve(owner)?;
        if !matches!(shape.kind, STRUCT | UNION) || depth > MAX_DEPTH {
            return None;
        }
        for n in 0..shape.len {
            *budget = budget.checked_sub(1)?;
            let at = at + TYPE_BYTES + n * MEMBER_BYTES;
            let found_name = self.word(at)?;
            let type_id = self.word(at + 4)?;
            let offset = self.word(at + 8)?;
            // With the flag, the upper byte is the width of a bit field (`BTF_MEMBER_BITFIELD_SIZE`).
            let (width, bits) = if shape.flag { (offset >> 24, offset & 0x00ff_ffff) } else { (0, offset) };
            if found_name == 0 {
                if let Some(inner) = self.member(type_id, name, depth + 1, budget) {
                    return Some(Member { bits: bits.checked_add(inner.bits)?, ..inner });
                }
            } else if self.string(found_name)? == name {
                let whole_bytes = width.is_multiple_of(8) && self.fills_its_bytes(type_id);
                return whole_bytes.then_some(Member { bits, type_id });
            }
        }
        None
    }

    /// Whether an integer type is no bit field, in the old encoding that has no width beside the member.
    fn fills_its_bytes(&self, type_id: u32) -> bool {
        match self.resolve(type_id) {
            // The word after an integer: the width in the lowest byte, the offset of the bits above it
            // (`BTF_INT_BITS`).
            Some((at, shape)) if shape.kind == INT => self.word(at + TYPE_BYTES).is_some_and(|word| {
                let (offset, width) = (word >> 16 & 0xff, word & 0xff);
                offset == 0 && shape.size_or_type.checked_mul(8) == Some(width)
            }),
            _ => true,
        }
    }

    /// Follows typedefs and qualifiers to a type with content of its own.
    fn resolve(&self, id: u32) -> Option<(usize, TypeShape)> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let at = *self.types.get(usize::try_from(id).ok()?.checked_sub(1)?)? as usize;
            let shape = self.shape(at)?;
            match shape.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = shape.size_or_type,
                _ => return Some((at, shape)),
            }
        }
        None
    }

    /// Returns the numbers of the types with this name, in ascending order: two C files can each define one.
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        self.names.of_hash(names::hash(name.as_bytes())).filter(move |&id| {
            let name_at = self.named_shape(id).map(|shape| shape.name);
            name_at.and_then(|at| self.string(at)) == Some(name.as_bytes())
        })
    }

    /// Returns the hash of the name of a type in the index; `None` if it is not there.
    fn indexed_hash(&self, id: u32) -> Option<u32> {
        let shape = self.named_shape(id)?;
        let is_indexed = matches!(shape.kind, STRUCT | UNION | ENUM | ENUM64 | TYPEDEF | FUNC) && shape.name != 0;
        let strings = self.bytes.get(self.strings..self.strings_end).filter(|_| is_indexed)?;
        Some(names::hash(strings.get(shape.name as usize..).unwrap_or_default()))
    }

    fn kind(&self, id: u32) -> Option<u32> {
        self.named_shape(id).map(|shape| shape.kind)
    }

    /// Returns the first words of the type with this number.
    fn named_shape(&self, id: u32) -> Option<TypeShape> {
        let at = self.types.get(usize::try_from(id).ok()?.checked_sub(1)?)?;
        self.shape(*at as usize)
    }

    /// Returns the first words of the type at a position.
    fn shape(&self, at: usize) -> Option<TypeShape> {
        let info = self.word(at + 4)?;
        Some(TypeShape {
            name: self.word(at)?,
            // 24 and 7 bits since 2026. Kernels that use only 16 and 5 of them set the others to 0 (`BTF_INFO_MASK`
            // in kernel/bpf/btf.c, v6.18).
            len: (info & 0x00ff_ffff) as usize,
            kind: info >> 24 & 0x7f,
            flag: info >> 31 == 1,
            size_or_type: self.word(at + 8)?,
        })
    }

    /// Returns a string without its final 0.
    fn string(&self, offset: u32) -> Option<&[u8]> {
        let section = self.bytes.get(self.strings..self.strings_end)?;
        section.get(offset as usize..)?.split(|&byte| byte == 0).next()
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(&self.bytes, at)
    }
}

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
/// Kind of a type, `BTF_KIND_TYPEDEF`.
pub const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
/// Kind of a type, `BTF_KIND_FUNC`.
pub const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// Size of `struct btf_type`, bytes.
const TYPE_BYTES: usize = 12;
/// Size of `struct btf_member`, bytes.
const MEMBER_BYTES: usize = 12;
/// Mean size of a type with its members, bytes: 22 to 24 in the kernels from 5.10 to 7.3.
const MEAN_TYPE_BYTES: usize = 22;
/// Maximum number of typedefs in a chain, and of anonymous structs within each other.
const MAX_DEPTH: u32 = 32;
/// Maximum number of members visited in one search. `struct task_struct` has about 280.
const SEARCH_BUDGET: u32 = 1 << 16;

/// Common first part of every type.
#[derive(Clone, Copy)]
struct TypeShape {
    /// Offset of the name in the string section; 0 if there is none.
    name: u32,
    /// Number of members, parameters or the like that follow.
    len: usize,
    kind: u32,
    flag: bool,
    size_or_type: u32,
}

impl TypeShape {
    /// Returns the size of the type with its members, bytes; `None` for an unknown kind.
    fn record_bytes(self) -> Option<usize> {
        let (fixed, each) = match self.kind {
            PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => (0, 0),
            INT | VAR | DECL_TAG => (4, 0),
            ARRAY => (12, 0),
            STRUCT | UNION | DATASEC | ENUM64 => (0, 12),
            ENUM | FUNC_PROTO => (0, 8),
            _ => return None,
        };
        Some(TYPE_BYTES + fixed + each * self.len)
    }
}

struct Member {
    /// Offset in bits from the start of the outer struct.
    bits: u32,
    type_id: u32,
}

/// Start and end of each section, checked against the length of the bytes.
struct Header {
    types: (usize, usize),
    strings: (usize, usize),
    /// Table with the sizes of the kinds of types, in files that have it.
    kinds: Option<(usize, usize)>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        /// `BTF_MAGIC`, then version 1 and no flags.
        const START: u32 =
            u32::from_ne_bytes(if cfg!(target_endian = "little") { [0x9f, 0xeb, 1, 0] } else { [0xeb, 0x9f, 1, 0] });
        let field = |at| word(bytes, at).ok_or(BtfError::Truncated { what: "the header" });
        if field(0)? != START {
            return Err(BtfError::Magic);
        }
        let header_bytes = field(4)? as usize;
        let section = |at, what| {
            let start = header_bytes.checked_add(field(at)? as usize);
            let end = start.and_then(|start| start.checked_add(word(bytes, at + 4)? as usize));
            match (start, end) {
                // Positions are stored as `u32`.
                (Some(start), Some(end)) if end <= bytes.len() && end <= u32::MAX as usize => Ok((start, end)),
                _ => Err(BtfError::Truncated { what }),
            }
        };
        let kinds = (header_bytes >= 32).then(|| section(24, "the table of kinds")).transpose()?;
        Ok(Self { types: section(8, "the types")?, strings: section(16, "the strings")?, kinds })
    }

    /// Returns the size of a type of an unknown kind, bytes, if the file has it (`struct btf_layout`).
    fn foreign_bytes(&self, bytes: &[u8], shape: TypeShape) -> Option<usize> {
        let (start, end) = self.kinds?;
        let at = start + shape.kind as usize * 4;
        let entry = bytes.get(at..at + 4).filter(|_| at + 4 <= end)?;
        let (fixed, each) = (usize::from(*entry.first()?), usize::from(*entry.get(1)?));
        Some(TYPE_BYTES + fixed + each * shape.len)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests;
