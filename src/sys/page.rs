//! A page of memory shared between the process that starts a container and the container's process until execve(2):
//! errors are written to it without any system call, since a filter may leave none.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::{Call, Result};

/// Bytes of the page; the first two are the length of what is written.
pub const SIZE: usize = 4096;

/// The page, mapped.
pub struct Page(NonNull<u8>);

// SAFETY: the mapping is shared memory that no thread owns; nothing else in this process points into it.
unsafe impl Send for Page {}

impl Page {
    /// A new, empty page and the descriptor by which another process maps it.
    pub fn new() -> Result<(Page, OwnedFd)> {
        let fd = rustix::fs::memfd_create("tare-start", MemfdFlags::CLOEXEC).call("memfd_create", String::new)?;
        rustix::fs::ftruncate(&fd, SIZE as u64).call("ftruncate", || format!("{SIZE}"))?;
        Ok((Page::map(&fd)?, fd))
    }

    /// Maps a page that another process made.
    pub fn map(fd: impl AsFd) -> Result<Page> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing of ours.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), SIZE, prot, flags, fd, 0) };
        let at = at.call("mmap", || "MAP_SHARED".into())?;
        NonNull::new(at.cast()).map(Page).ok_or_else(|| super::SysError::new("mmap", "", nix::errno::Errno::ENOMEM))
    }

    /// Writes what does not exceed the page. Only once, by one process, before its end.
    pub fn write(&self, bytes: &[u8]) {
        let len = bytes.len().min(SIZE - 2);
        // SAFETY: the mapping has SIZE bytes and lives as long as `self`; the other process reads only after the end of
        // file of its socket, which comes after these writes.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_ptr().add(2), len);
            self.0.as_ptr().cast::<[u8; 2]>().write_volatile((len as u16).to_ne_bytes());
        }
    }

    /// What was written.
    pub fn read(&self) -> Vec<u8> {
        // SAFETY: as above; the length is checked, since the other process might write anything.
        unsafe {
            let len = u16::from_ne_bytes(self.0.as_ptr().cast::<[u8; 2]>().read_volatile()) as usize;
            std::slice::from_raw_parts(self.0.as_ptr().add(2), len.min(SIZE - 2)).to_vec()
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly the mapping that this value owns.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), SIZE) };
    }
}
