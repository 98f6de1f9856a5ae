//! The only unsafe code. Every wrapper takes and gives owned or borrowed descriptors, and fails with a [`SysError`] that
//! prints as strace would.
#![allow(unsafe_code)]

// The shipped binary's allocator; the tests run it everywhere.
#[cfg(any(target_env = "musl", test))]
mod alloc;
pub mod bpf;
pub mod clone;
pub mod mount;
pub mod page;
pub mod process;
pub mod root;
pub mod socket;

use std::fmt;

use nix::errno::Errno;

/// A failed system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysError {
    /// The call's name: `move_mount`.
    pub call: std::borrow::Cow<'static, str>,
    /// Its arguments, as a person would read them: `fd 9 → "data"`.
    pub args: String,
    /// Why it failed.
    pub errno: Errno,
}

/// The result of a system call.
pub type Result<T> = std::result::Result<T, SysError>;

impl SysError {
    /// The error of `call(args)`.
    pub fn new(call: &'static str, args: impl Into<String>, errno: Errno) -> Self {
        SysError { call: call.into(), args: args.into(), errno }
    }

    /// The error that the C library left in errno.
    pub fn last(call: &'static str, args: impl Into<String>) -> Self {
        SysError::new(call, args, Errno::last())
    }
}

/// The errno's text in the lower-case form of Go, which engines match on ("no such file or directory").
pub fn errno_text(errno: Errno) -> String {
    let text = errno.desc();
    // "RFS specific error" and the like keep their capitals.
    if text.chars().nth(1).is_some_and(char::is_lowercase) || text.starts_with("I/O") {
        text.to_lowercase()
    } else {
        text.to_owned()
    }
}

/// `{}` prints `call(args): EPERM (operation not permitted)`, `{:#}` leaves the text out: see `error::Origin`.
impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}): {:?}", self.call, crate::error::one_line(&self.args, 4096), self.errno)?;
        if !f.alternate() {
            write!(f, " ({})", errno_text(self.errno))?;
        }
        Ok(())
    }
}

impl std::error::Error for SysError {}

/// Turns the error of nix or rustix into a [`SysError`] with the call's name and arguments.
pub trait Call<T> {
    /// Names the call; the arguments are only rendered when it failed.
    fn call(self, call: &'static str, args: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Call<T> for std::result::Result<T, rustix::io::Errno> {
    fn call(self, call: &'static str, args: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| SysError::new(call, args(), Errno::from_raw(e.raw_os_error())))
    }
}

impl<T> Call<T> for nix::Result<T> {
    fn call(self, call: &'static str, args: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| SysError::new(call, args(), e))
    }
}

impl<T> Call<T> for std::io::Result<T> {
    fn call(self, call: &'static str, args: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| SysError::new(call, args(), Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))))
    }
}
