//! bpf(2), as far as a device program of a cgroup needs it. Layouts and numbers are those of `linux/bpf.h`; libc has none of them.

// Until the commands use all of it.
#![allow(dead_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::{Result, SysError};

// enum bpf_cmd
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;

// enum bpf_prog_type, enum bpf_attach_type
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

// Flags of BPF_PROG_ATTACH
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2; // Linux 5.6

/// `BPF_DEVCG_ACC_MKNOD`: the device node is created.
pub const BPF_DEVCG_ACC_MKNOD: i32 = 1 << 0;
/// `BPF_DEVCG_ACC_READ`: the device is opened for reading.
pub const BPF_DEVCG_ACC_READ: i32 = 1 << 1;
/// `BPF_DEVCG_ACC_WRITE`: the device is opened for writing.
pub const BPF_DEVCG_ACC_WRITE: i32 = 1 << 2;
/// `BPF_DEVCG_DEV_BLOCK`: a block device.
pub const BPF_DEVCG_DEV_BLOCK: i32 = 1 << 0;
/// `BPF_DEVCG_DEV_CHAR`: a character device.
pub const BPF_DEVCG_DEV_CHAR: i32 = 1 << 1;

/// The most programs that one cgroup can have of one type (`BPF_CGROUP_MAX_PROGS` in kernel/bpf/cgroup.c).
const MOST_PROGRAMS: usize = 64;

/// One instruction, `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Class, operation and source of the operand.
    pub code: u8,
    /// Two registers of four bits each: see [`Insn::new`].
    regs: u8,
    /// Offset of a jump, in instructions from the next one, or of a load, in bytes.
    pub off: i16,
    /// The operand.
    pub imm: i32,
}

impl Insn {
    /// An instruction on the registers `dst` and `src` (0 to 10).
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Self {
        // The header declares `__u8 dst_reg:4, src_reg:4`: which half comes first is the machine's byte order.
        let regs = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
        Insn { code, regs, off, imm }
    }

    /// The register that is written or compared.
    pub const fn dst(self) -> u8 {
        if cfg!(target_endian = "little") { self.regs & 0xf } else { self.regs >> 4 }
    }

    /// The register that is read.
    pub const fn src(self) -> u8 {
        if cfg!(target_endian = "little") { self.regs >> 4 } else { self.regs & 0xf }
    }
}

/// `union bpf_attr` for BPF_PROG_LOAD, to the field that we need last.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// `union bpf_attr` for BPF_PROG_ATTACH and BPF_PROG_DETACH.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// `union bpf_attr` for BPF_PROG_QUERY.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

/// `union bpf_attr` for BPF_PROG_GET_FD_BY_ID.
#[repr(C)]
#[derive(Default)]
struct IdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The parts of `union bpf_attr`.
///
/// # Safety
/// The type is `repr(C)`, without padding (the kernel reads every byte, and those past the command's own fields must be
/// zero), and its pointers are valid for the command that it is used with.
unsafe trait Attr {}
// SAFETY: repr(C); every field follows the one before without a hole. The pointers are set by the wrappers below alone,
// from slices that outlive the call.
unsafe impl Attr for LoadAttr {}
// SAFETY: as above, without pointers.
unsafe impl Attr for AttachAttr {}
// SAFETY: as above. The four bytes of padding at its end are cut off by `bpf`, which is told the size up to prog_cnt.
unsafe impl Attr for QueryAttr {}
// SAFETY: as above, without pointers.
unsafe impl Attr for IdAttr {}
// SAFETY: repr(C) without a hole; the pointer is set by `program_name` alone, from an array that outlives the call.
unsafe impl Attr for InfoAttr {}

/// bpf(cmd, attr, size). The kernel may write into `attr` and into what it points to.
fn bpf<A: Attr>(cmd: libc::c_long, attr: &mut A, size: usize) -> std::result::Result<i32, Errno> {
    debug_assert!(size <= size_of::<A>());
    loop {
        // SAFETY: `attr` is a live, exclusively borrowed part of `union bpf_attr` of at least `size` bytes (checked by the
        // callers' offset_of/size_of), and `Attr` promises that the pointers in it are valid for `cmd`.
        let result = unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size) };
        match Errno::result(result) {
            // The verifier is interruptible: EAGAIN when a signal is pending (Linux 5.0 and newer).
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            other => return other.map(|fd| fd as i32),
        }
    }
}

/// A descriptor that bpf(2) returned.
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: both callers pass the result of a BPF command that returns a new descriptor, which nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a program of type `BPF_PROG_TYPE_CGROUP_DEVICE` (Linux 4.15). The descriptor is close-on-exec.
///
/// # Errors
/// EPERM without CAP_BPF (or CAP_SYS_ADMIN); EINVAL or EACCES when the verifier refuses the program; E2BIG when it has more
/// than a million instructions.
pub fn load_device_program(insns: &[Insn], license: &CStr, name: &str) -> Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttr::default()
    };
    // The last byte stays zero.
    for (to, from) in attr.prog_name[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bpf(BPF_PROG_LOAD, &mut attr, size_of::<LoadAttr>())
        .map(owned)
        .map_err(|e| SysError::new("bpf", format!("BPF_PROG_LOAD, CGROUP_DEVICE, {} instructions", insns.len()), e))
}

/// Attaches a device program to a cgroup: with `replace`, in the place of that program and atomically (Linux 5.6), else
/// behind those that are there. An access is allowed when every program of the cgroup and of those above it allows it.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN or CAP_SYS_ADMIN, or when a cgroup above has a program that was attached without
/// `BPF_F_ALLOW_MULTI`; ENOENT when `replace` is not attached here; E2BIG at 64 programs.
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        ..AttachAttr::default()
    };
    if let Some(old) = replace {
        attr.attach_flags |= BPF_F_REPLACE;
        attr.replace_bpf_fd = old.as_raw_fd() as u32;
    }
    let replace = if replace.is_some() { "|BPF_F_REPLACE" } else { "" };
    bpf(BPF_PROG_ATTACH, &mut attr, size_of::<AttachAttr>())
        .map(drop)
        .map_err(|e| SysError::new("bpf", format!("BPF_PROG_ATTACH, CGROUP_DEVICE, BPF_F_ALLOW_MULTI{replace}"), e))
}

/// Detaches a device program from a cgroup.
///
/// # Errors
/// ENOENT when it is not attached here; EPERM without CAP_NET_ADMIN or CAP_SYS_ADMIN.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(BPF_PROG_DETACH, &mut attr, size_of::<AttachAttr>())
        .map(drop)
        .map_err(|e| SysError::new("bpf", "BPF_PROG_DETACH, CGROUP_DEVICE", e))
}

/// The ids of the device programs that are attached to a cgroup itself, in the order in which they run.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN or CAP_SYS_ADMIN.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>> {
    let mut ids = vec![0u32; MOST_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..QueryAttr::default()
    };
    let size = std::mem::offset_of!(QueryAttr, prog_cnt) + size_of::<u32>();
    bpf(BPF_PROG_QUERY, &mut attr, size).map_err(|e| SysError::new("bpf", "BPF_PROG_QUERY, CGROUP_DEVICE", e))?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// The name of a loaded program (`bpf_prog_info.name`, Linux 4.15).
///
/// # Errors
/// EPERM without the right to look at it.
pub fn program_name(program: BorrowedFd<'_>) -> Result<String> {
    // struct bpf_prog_info up to and with its name: 64 bytes, none of which asks for anything, and 16 for the name.
    let mut info = [0u8; 80];
    let mut attr =
        InfoAttr { bpf_fd: program.as_raw_fd() as u32, info_len: info.len() as u32, info: info.as_mut_ptr() as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr, size_of::<InfoAttr>())
        .map_err(|e| SysError::new("bpf", "BPF_OBJ_GET_INFO_BY_FD", e))?;
    Ok(String::from_utf8_lossy(&info[64..]).trim_end_matches('\0').to_owned())
}

/// A descriptor of the loaded program with this id.
///
/// # Errors
/// ENOENT when it is gone meanwhile; EPERM without CAP_SYS_ADMIN; EACCES from a security module.
pub fn program_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = IdAttr { prog_id: id, ..IdAttr::default() };
    bpf(BPF_PROG_GET_FD_BY_ID, &mut attr, size_of::<IdAttr>())
        .map(owned)
        .map_err(|e| SysError::new("bpf", format!("BPF_PROG_GET_FD_BY_ID, {id}"), e))
}
