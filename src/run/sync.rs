//! The protocol between the processes, on sockets that keep message boundaries:
//!
//! | when                       | from → to        | message                 | then                                             |
//! |----------------------------|------------------|-------------------------|--------------------------------------------------|
//! | id maps written            | parent → child   | `Mapped`                | the child becomes root and makes what is late    |
//! | cgroup set by cgroup.procs | parent → child   | `Placed`                | the child makes its cgroup namespace             |
//! | filter compiled            | parent → child   | `Filter`                | kept until the end                               |
//! | the mounts are made        | child → parent   | `Hooks`                 | the parent runs hooks, if there are some         |
//! | the hooks have run         | parent → child   | `Hooked`                | the child goes on                                |
//! | a step failed              | child → parent   | `Failed`                | the child exits                                  |
//! | the parent's steps done    | parent → child   | `Enter` (in `exec`)     | it makes the one in the pid namespace            |
//! | that one is made           | child → parent   | `Entered` + its pidfd   | it exits; the new one goes on meanwhile          |
//! | all steps done             | child → parent   | `Ready`                 | the parent writes the state                      |
//! | state written              | parent → child   | `Go` (+ page in `run`)  | the child waits for `start`, or executes (`run`) |
//! | it waits for `start`       | child → parent   | the end of file         | `create` ends                                    |
//! | start                      | starter → child  | `Go` + page             | the child answers `Ready`                        |
//! | from then on               | child            | the page, end of file   | an empty page at the end of file: execve is done |
//!
//! The page is shared memory: once the filter is loaded, no system call may be left to send an error with. The end of
//! the file comes by close-on-exec or by the child's end. In every wait before `Go` the end of the parent is the child's
//! end, so a killed parent leaves no child.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Origin};
use crate::sys::{self, SysError, socket};

/// The longest message: a filter of 4,096 instructions of 8 bytes, and some.
const LONGEST: usize = 64 * 1024;

/// What the child is told.
#[derive(Debug)]
pub enum ToChild {
    /// It was moved into its cgroup.
    Placed,
    /// The ids of its user namespace are mapped.
    Mapped,
    /// The seccomp filter and its flags.
    Filter(Vec<u8>, u32),
    /// The hooks of the runtime have run.
    Hooked,
    /// What the parent does to the process is done, so it may make the one that takes its place.
    Enter,
    /// Go on: errors go to this page from now on.
    Go(Option<OwnedFd>),
}

/// What the child tells.
#[derive(Debug)]
pub enum FromChild {
    /// The process of this pidfd takes the place of the one that says it; that one's words may come first.
    Entered(OwnedFd),
    /// All steps up to here are done.
    Ready,
    /// It is time for the hooks of the runtime.
    Hooks,
    /// A step failed.
    Failed(Report),
}

/// A failed step, as a message: field, what was done, call, errno. `start` has no plan, so the field is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    origin: Option<(String, Option<String>)>,
    doing: String,
    call: Option<(String, String, i32)>,
    hint: Option<String>,
}

impl Report {
    /// Of an error.
    pub fn new(error: &Error) -> Self {
        Report {
            origin: error.origin.as_ref().map(|o| (o.field.to_string(), o.object.clone())),
            doing: error.doing.to_string(),
            call: error.source.as_ref().map(|s| (s.call.to_string(), s.args.clone(), s.errno as i32)),
            hint: error.hint.as_ref().map(|h| h.to_string()),
        }
    }

    /// The error it was made of.
    pub fn error(self) -> Error {
        let source =
            self.call.map(|(call, args, errno)| SysError { call: call.into(), args, errno: Errno::from_raw(errno) });
        let origin = self.origin.map(|(field, object)| Origin { field: field.into(), object });
        Error { origin, source, hint: self.hint.map(Into::into), ..Error::new(self.doing) }
    }

    /// As bytes; longer texts than the page holds are cut.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut report = self.clone();
        loop {
            let bytes = serde_json::to_vec(&report).unwrap_or_default();
            if bytes.len() < sys::page::SIZE {
                return bytes;
            }
            // All of these may hold a path of config.json, of any length.
            let (field, object) = report.origin.as_mut().map(|(f, o)| (f, o.as_mut())).unzip();
            let args = report.call.as_mut().map(|(_, args, _)| args);
            let texts = [Some(&mut report.doing), field, object.flatten(), args, report.hint.as_mut()];
            match texts.into_iter().flatten().max_by_key(|t| t.len()) {
                Some(longest) if !longest.is_empty() => shorten(longest),
                _ => return bytes,
            }
        }
    }

    /// From the page or a message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Leaves out the middle: what comes last says why.
fn shorten(text: &mut String) {
    let (from, to) = (text.floor_char_boundary(text.len() / 4), text.ceil_char_boundary(text.len() - text.len() / 4));
    text.replace_range(from..to, "");
}

/// Sends one message to the child.
pub fn tell(socket: impl AsFd, message: &ToChild) -> sys::Result<()> {
    match message {
        ToChild::Placed => socket::send(socket, b"P"),
        ToChild::Mapped => socket::send(socket, b"M"),
        ToChild::Hooked => socket::send(socket, b"K"),
        ToChild::Enter => socket::send(socket, b"N"),
        ToChild::Filter(bpf, flags) => {
            let bytes: Vec<u8> = [b"F", flags.to_ne_bytes().as_slice(), bpf].concat();
            socket::send(socket, &bytes)
        }
        ToChild::Go(None) => socket::send(socket, b"G"),
        ToChild::Go(Some(page)) => socket::send_fd(socket, b"G", page.as_fd()),
    }
}

/// Receives one message in the child; `None` when the other side is gone.
pub fn hear(socket: BorrowedFd<'_>) -> sys::Result<Option<ToChild>> {
    let Some((bytes, fd)) = socket::receive(socket, LONGEST)? else { return Ok(None) };
    let unexpected = || SysError::new("recvmsg", "a message of no known kind", Errno::EPROTO);
    match bytes.split_first() {
        Some((b'P', _)) => Ok(Some(ToChild::Placed)),
        Some((b'M', _)) => Ok(Some(ToChild::Mapped)),
        Some((b'K', _)) => Ok(Some(ToChild::Hooked)),
        Some((b'N', _)) => Ok(Some(ToChild::Enter)),
        Some((b'G', _)) => Ok(Some(ToChild::Go(fd))),
        Some((b'F', rest)) => {
            let (flags, bpf) = rest.split_first_chunk::<4>().ok_or_else(unexpected)?;
            Ok(Some(ToChild::Filter(bpf.to_vec(), u32::from_ne_bytes(*flags))))
        }
        _ => Err(unexpected()),
    }
}

/// Sends one message from the child.
pub fn report(socket: impl AsFd, message: &FromChild) -> sys::Result<()> {
    match message {
        FromChild::Entered(pidfd) => socket::send_fd(socket, b"N", pidfd.as_fd()),
        FromChild::Ready => socket::send(socket, b"R"),
        FromChild::Hooks => socket::send(socket, b"H"),
        FromChild::Failed(report) => socket::send(socket, &[b"E".as_slice(), &report.to_bytes()].concat()),
    }
}

/// Receives one message of the child; `None` when it is gone.
///
/// # Errors
/// `ECONNRESET`: it was gone before it had read all of ours. What it said itself is still to be read after that.
pub fn listen(socket: BorrowedFd<'_>) -> sys::Result<Option<FromChild>> {
    match listen_once(socket) {
        Err(reset) if reset.errno == Errno::ECONNRESET => listen_once(socket)?.map(Some).ok_or(reset),
        said => said,
    }
}

fn listen_once(socket: BorrowedFd<'_>) -> sys::Result<Option<FromChild>> {
    let Some((bytes, fd)) = socket::receive(socket, LONGEST)? else { return Ok(None) };
    let unexpected = || SysError::new("recvmsg", "a message of no known kind", Errno::EPROTO);
    match bytes.split_first() {
        Some((b'N', _)) => fd.map(FromChild::Entered).map(Some).ok_or_else(unexpected),
        Some((b'R', _)) => Ok(Some(FromChild::Ready)),
        Some((b'H', _)) => Ok(Some(FromChild::Hooks)),
        Some((b'E', rest)) => Report::from_bytes(rest).map(FromChild::Failed).map(Some).ok_or_else(unexpected),
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_the_way_and_is_cut_to_the_page() {
        let source = SysError::new("mount", "x".repeat(70_000), nix::errno::Errno::EPERM);
        let error = Error::sys("attach", source).hint("try").at(Origin::new("mounts[3]", "/data"));
        let report = Report::new(&error);
        let bytes = report.to_bytes();
        assert!(bytes.len() < sys::page::SIZE);
        let back = Report::from_bytes(&bytes).unwrap();
        let back = back.error();
        assert_eq!((back.doing.as_ref(), back.hint.as_deref()), ("attach", Some("try")));
        assert_eq!((back.errno(), back.origin), (Some(nix::errno::Errno::EPERM), error.origin));
    }

    #[test]
    fn each_of_its_texts_may_be_too_long() {
        let long = || "x".repeat(70_000);
        for error in [
            Error::new(long()),
            Error::new("x").at(Origin::new("mounts[0]", long())),
            Error::new("x").at(Origin::field(long())),
            Error::new("x").hint(long()),
        ] {
            let bytes = Report::new(&error).to_bytes();
            assert!(bytes.len() < sys::page::SIZE);
            assert!(Report::from_bytes(&bytes).is_some());
        }
    }

    #[test]
    fn messages_of_no_known_kind_are_errors() {
        let (a, b) = socket::pair().unwrap();
        for message in [b"Z".as_slice(), b"F1", b"E{", b"E"] {
            socket::send(&a, message).unwrap();
            assert!(hear(b.as_fd()).is_err() || message[0] == b'E');
            socket::send(&a, message).unwrap();
            assert!(listen(b.as_fd()).is_err());
        }
        drop(a);
        assert!(hear(b.as_fd()).unwrap().is_none());
    }
}
