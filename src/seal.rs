//! The very first act of `create`, `run`, `exec` and `restore`: to run from a file that nobody can open for writing. A
//! container's process could reach the runtime's executable through /proc/PID/exe and change it for the host's next
//! container (CVE-2019-5736).
//!
//! The file is sealed already when it is on a read-only mount (that is also what we look like after having done it), has
//! fs-verity, or is a sealed memfd. Otherwise we execute ourselves again, from a read-only detached mount of the file, or
//! where that cannot be from a memfd. The mount's descriptor goes by close-on-exec: whoever holds it could make the mount
//! writable again. Nothing is read from the environment, which is the caller's.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, SealFlags, StatVfsMountFlags};

use crate::error::{Doing, Error, Result};
use crate::sys::mount::{self, Attr};
use crate::sys::{self, Call, process};

const EXE: &str = "/proc/self/exe";

/// Returns once this process runs from a sealed file.
pub fn seal() -> Result<()> {
    if is_sealed()? {
        return Ok(());
    }
    let copy = match readonly_mount() {
        Ok(mount) => mount,
        Err(_) => memfd()
            .map_err(|e| e.hint("neither a read-only mount of the executable nor a copy in memory can be made"))?,
    };
    Err(Error::sys("run from a sealed copy of the executable", process::exec_again(copy)))
}

fn is_sealed() -> Result<bool> {
    let fs = rustix::fs::statvfs(EXE).call("statfs", || EXE.into()).doing("look at the runtime's executable")?;
    if fs.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    // STATX_ATTR_VERITY: the kernel refuses to open such a file for writing (Documentation/filesystems/fsverity.rst).
    let stat = rustix::fs::statx(CWD, EXE, rustix::fs::AtFlags::empty(), rustix::fs::StatxFlags::TYPE);
    if stat.is_ok_and(|s| s.stx_attributes.contains(rustix::fs::StatxAttributes::VERITY)) {
        return Ok(true);
    }
    // A sealed memfd has no link.
    if rustix::fs::stat(EXE).is_ok_and(|s| s.st_nlink == 0) {
        let file = executable().doing("look at the runtime's executable")?;
        return Ok(rustix::fs::fcntl_get_seals(&file).is_ok_and(|s| s.contains(SealFlags::WRITE)));
    }
    Ok(false)
}

/// The file that this process runs from.
pub fn executable() -> sys::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(EXE, flags, rustix::fs::Mode::empty()).call("open", || EXE.into())
}

fn readonly_mount() -> Result<OwnedFd> {
    let tree = mount::open_tree(CWD, Path::new(EXE), false, false).doing("mount the runtime's executable")?;
    let readonly = Attr { set: libc::MOUNT_ATTR_RDONLY, ..Attr::default() };
    mount::mount_setattr(&tree, readonly, false).doing("make the mount of the executable read-only")?;
    Ok(tree)
}

fn memfd() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC (Linux 6.3) where vm.memfd_noexec asks for the word; older kernels refuse the flag.
    let memfd = rustix::fs::memfd_create("tare", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("tare", flags))
        .call("memfd_create", String::new)
        .doing("copy the runtime's executable")?;
    let mut from = std::fs::File::open(EXE).call("open", || EXE.into()).doing("copy the runtime's executable")?;
    let mut to = std::fs::File::from(memfd);
    std::io::copy(&mut from, &mut to).call("copy", || EXE.into()).doing("copy the runtime's executable")?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&to, seals).call("fcntl", || "F_ADD_SEALS".into()).doing("seal the copy")?;
    Ok(to.into())
}
